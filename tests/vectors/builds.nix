# What both Nix and eka build, to the same bytes. `tools` is a tree with a static busybox in bin/.
{ tools }:
let
  system = "x86_64-linux";
  make = attributes: derivation ({
    inherit system;
    builder = "${tools}/bin/sh";
    PATH = "${tools}/bin";
  } // attributes // (if attributes ? run then { args = [ "-e" "-c" attributes.run ]; } else { }));
  text = builtins.toFile "text" "plain text\n";
  script = builtins.toFile "builder.sh" ''
    echo "$0 $1" > $out
  '';
  plain = make { name = "plain"; run = "echo hello > $out"; };
  leaf = make { name = "leaf"; run = "mkdir $out; echo ${plain} > $out/uses"; };
  several = make {
    name = "several";
    outputs = [ "out" "dev" "doc" ];
    run = "mkdir $out $dev; echo $dev > $out/dev; echo $doc > $dev/doc; echo documentation > $doc";
  };
  floating = attributes: make ({
    __contentAddressed = true;
    outputHashAlgo = "sha256";
    outputHashMode = "recursive";
  } // attributes);
  ca = floating { name = "ca"; run = "mkdir $out; echo ${plain} > $out/uses"; };
  caSelf = floating {
    name = "ca-self";
    run = "mkdir -p $out/bin; for i in 1 2 3; do echo $out/bin >> $out/bin/self; done; ln -s $out/bin/self $out/link";
  };
  caTwo = floating {
    name = "ca-two";
    outputs = [ "out" "lib" ];
    run = "mkdir $lib $out; echo $lib > $lib/self; echo $lib $out > $out/both";
  };
  structured = file: make {
    name = "structured";
    __structuredAttrs = true;
    outputs = [ "out" "dev" ];
    args = [ "-e" "-c" "PATH=${tools}/bin; cd /build; d=$(grep -o '/nix/store/[a-z0-9]*-structured-dev' .attrs.json | head -n 1); o=$(grep -o '/nix/store/[a-z0-9]*-structured\"' .attrs.json | head -n 1); o=\${o%?}; cp ${file} $o; echo x > $d" ];
    list = [ "a" 1 true false null "it's" ];
    nested = { a = [ 1 ]; };
    table = { x = "y"; "k'" = 2; };
    exportReferencesGraph.closure = [ leaf ];
    number = 2.5;
    whole = 3.0;
    text = "line\n\"quoted\" é";
    "not-a-name" = 1;
  };
in {
  attrsJson = structured ".attrs.json";
  attrsSh = structured ".attrs.sh";
  inherit plain leaf several ca caSelf caTwo;
  environment = make { name = "environment"; odd = "a b\n\"c\" $d"; run = "env | grep -v '^\\(SHLVL\\|_\\|args\\|run\\|builder\\|NIX_BUILD_CORES\\)=' | sort > $out"; };
  place = make {
    name = "place";
    run = ''
      mkdir $out
      id > $out/id
      hostname > $out/hostname
      pwd > $out/cwd
      umask > $out/umask
      cat /etc/passwd /etc/group /etc/hosts > $out/etc
      ls -A / > $out/root
      ls /nix/store > $out/store
      ls -d /dev/full /dev/null /dev/ptmx /dev/pts /dev/random /dev/shm /dev/tty /dev/urandom /dev/zero > $out/dev
      for l in fd stdin stdout stderr; do readlink /dev/$l; done > $out/links
      (echo x > /dev/shm/x && cat /dev/shm/x) > $out/shm
      ip addr show dev lo | grep -c 127.0.0.1 > $out/lo || true
      readlink /proc/self/fd/0 > $out/stdin
      echo 'echo from sh' > t; /bin/sh t > $out/sh
    '';
  };
  files = make { name = "files"; passAsFile = [ "big" ]; big = "contents of a file"; run = "cp $bigPath $out; ls -A > /dev/null"; };
  script = make { name = "script"; args = [ script "word" ]; };
  source = make { name = "source"; src = text; run = "cp $src $out"; };
  modes = make {
    name = "modes";
    run = "mkdir -p $out/a/b; echo x > $out/a/x; chmod 4755 $out/a/x || chmod 755 $out/a/x; echo y > $out/a/y; chmod 600 $out/a/y; echo z > $out/z; chmod 000 $out/z; chmod 500 $out/a/b; ln -s /nonexistent $out/dangling; ln $out/a/x $out/hard; touch -d 2001-01-01 $out/a/y; mkdir $out/a/secret; chmod 000 $out/a/secret";
  };
  link = make { name = "link"; run = "ln -s ${plain} $out"; };
  executable = make { name = "executable"; run = "echo '#!/bin/sh' > $out; chmod 755 $out"; };
  self = make { name = "self"; run = "mkdir $out; echo $out > $out/self"; };
  names = make { name = "names"; run = "mkdir $out; touch $out/x-$(basename ${plain})-y; ln -s ${leaf}/uses $out/l"; };
  edge = make { name = "edge"; run = "mkdir $out; (head -c 65520 /dev/zero; echo -n ${plain}) > $out/a; (head -c 131060 /dev/zero; echo -n ${leaf}) > $out/b"; };
  none = make { name = "none"; inputs = [ plain leaf ]; run = "echo nothing > $out"; };
  useSeveral = make { name = "use-several"; run = "cat ${several.dev}/doc > $out; echo ${several} >> $out"; };
  fixed = make { name = "fixed"; run = "echo hello > $out"; outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"; outputHashAlgo = "sha256"; };
  fixedTree = make { name = "fixed-tree"; run = "mkdir $out; echo hello > $out/x"; outputHash = "sha256-YY6WawxHk3po6HmulzMJJFL+gfiiznMf6v4iQ1UvAH0="; outputHashAlgo = "sha256"; outputHashMode = "recursive"; };
  fixedSha1 = make { name = "fixed-sha1"; run = "echo hello > $out"; outputHash = "f572d396fae9206628714fb2ce00f72e94f2258f"; outputHashAlgo = "sha1"; };
  graph = make { name = "graph"; exportReferencesGraph = [ "refs" leaf "self" plain ]; run = "cat refs self > $out"; };
  allowed = make { name = "allowed"; allowedReferences = [ plain "out" ]; run = "mkdir $out; echo ${plain} $out > $out/x"; };
  useCa = make { name = "use-ca"; run = "cat ${ca}/uses > $out; echo ${caSelf} ${caTwo.lib} >> $out"; };
  useCaFloating = floating { name = "use-ca-floating"; run = "echo ${ca} ${caTwo} > $out"; };
  fetched = derivation {
    name = "fetched"; system = "builtin"; builder = "builtin:fetchurl"; url = "file://${text}";
    outputHash = builtins.hashFile "sha256" text; outputHashAlgo = "sha256"; outputHashMode = "flat";
    preferLocalBuild = true;
  };
  profile = derivation {
    name = "profile"; system = "builtin"; builder = "builtin:buildenv";
    derivations = [ "true" 5 1 several "true" 4 1 (make { name = "tree"; run = "mkdir -p $out/share/a $out/nix-support; echo x > $out/share/a/x; echo $out > $out/dev; echo ${leaf} > $out/nix-support/propagated-user-env-packages"; }) "false" 1 1 leaf ];
    manifest = text;
  };
}
