# Builders that try what they may not, and derivations that demand what is not so.
{ tools }:
let
  make = attributes: derivation ({
    system = "x86_64-linux";
    builder = "${tools}/bin/sh";
    PATH = "${tools}/bin";
  } // attributes // { args = [ "-c" attributes.run ]; });
  secret = make { name = "secret"; run = "echo secret > $out"; };
  fixed = attributes: make ({ outputHashAlgo = "sha256"; outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"; } // attributes);
in {
  # Succeed, with nothing to show for what they tried.
  network = make { name = "network"; run = "nc -w 1 127.0.0.1 22 < /dev/null; ip link | grep -c '^[0-9]' > $out"; };
  host = make { name = "host"; run = "ls /home /root /usr /lib /etc/shadow /sys /nix/var 2>/dev/null | wc -l > $out"; };
  others = make { name = "others"; run = "mkdir /nix/store/00000000000000000000000000000000-planted; echo x > /nix/store/11111111111111111111111111111111-planted; (echo x > $tools/x || rm -rf $tools/bin) 2>/dev/null; echo done > $out"; inherit tools; };
  undeclared = make { name = "undeclared"; run = "cat ${builtins.unsafeDiscardStringContext secret.outPath} > $out || echo absent > $out"; };
  setuid = make { name = "setuid"; run = "echo x > $out; chmod 6755 $out || chmod 755 $out"; };
  left = make { name = "left"; run = "echo x > $out; (trap '' TERM INT HUP; sleep 98761) & (trap '' TERM; setsid sleep 98761) >/dev/null 2>&1 & exit 0"; };
  linked = make { name = "linked"; run = "mkdir $out; ln -s /etc/shadow $out/a; ln -s ../../../etc/passwd $out/b; ln -s $out $out/c"; };
  kept = make { name = "kept"; run = "mkdir /build/top; ln -s /etc /build/x; echo x > /tmp/x; echo x > $out"; };
  big = make { name = "big"; outputs = [ "out" "dev" ]; run = "head -c 100000 /dev/zero > $dev; (echo ${tools}; cat $dev) > $out"; };
  forks = make { name = "forks"; run = "i=0; while [ $i -lt 300 ]; do sleep 98763 & i=$((i+1)); done 2>/dev/null; echo $i > $out"; };
  # Fail.
  device = make { name = "device"; run = "mkdir $out; mknod $out/null c 1 3 || mknod $out/null c 0 0 || mkfifo $out/null"; };
  pipe = make { name = "pipe"; run = "mkfifo $out"; };
  nothing = make { name = "nothing"; run = "true"; };
  failing = make { name = "failing"; run = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $i; done; exit 7"; };
  killed = make { name = "killed"; run = "kill -9 $$"; };
  wrongHash = fixed { name = "wrong-hash"; run = "echo other > $out"; };
  wrongKind = fixed { name = "wrong-kind"; run = "mkdir $out"; };
  refersFixed = fixed { name = "refers-fixed"; run = "echo ${secret} > $out"; outputHash = "0000000000000000000000000000000000000000000000000000000000000000"; };
  disallowed = make { name = "disallowed"; run = "echo ${secret} > $out"; disallowedReferences = [ secret ]; };
  requisites = make { name = "requisites"; run = "echo ${make { name = "between"; run = "echo ${secret} > $out"; }} > $out"; disallowedRequisites = [ secret ]; };
  allowed = make { name = "allowed"; run = "echo ${secret} > $out"; allowedReferences = [ ]; };
  large = derivation {
    name = "large"; system = "x86_64-linux"; builder = "${tools}/bin/sh"; __structuredAttrs = true;
    args = [ "-c" "${tools}/bin/head -c 5000 /dev/zero > /nix/store/$(${tools}/bin/grep -o '[a-z0-9]*-large\"' /build/.attrs.json | ${tools}/bin/tr -d '\"')" ];
    outputChecks.out.maxSize = 1000;
  };
  circle = make { name = "circle"; outputs = [ "out" "dev" ]; run = "echo $dev > $out; echo $out > $dev"; };
  noChroot = make { name = "no-chroot"; run = "echo x > $out"; __noChroot = "1"; };
  feature = make { name = "feature"; run = "echo x > $out"; requiredSystemFeatures = [ "quantum" ]; };
  elsewhere = make { name = "elsewhere"; run = "echo x > $out"; system = "vax-netbsd"; };
  unknown = derivation { name = "unknown"; system = "builtin"; builder = "builtin:nothing"; };
  # Go on for too long.
  silent = make { name = "silent"; run = "trap '' TERM INT; sleep 98762; echo x > $out"; };
  flood = make { name = "flood"; run = "yes; echo x > $out"; };
  depends = make { name = "depends"; run = "echo ${make { name = "lost"; run = "exit 1"; }} > $out"; };
}
