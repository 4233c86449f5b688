# A small package with references: greet -> busybox and a text file. Built by `examples/demo` with
# the machine's own Nix and no network; eka then imports its closure.
{ busybox }:
let
  tools = builtins.path { path = busybox; name = "busybox-tools"; };
  words = builtins.toFile "greeting.txt" "Hello";
in
derivation {
  name = "greet-1.0";
  system = builtins.currentSystem;
  builder = "${tools}/bin/sh";
  args = [
    "-c"
    ''
      export PATH=${tools}/bin
      mkdir -p $out/bin
      {
        echo '#!${tools}/bin/sh'
        echo 'printf "%s, %s! I live in %s\n" "$(${tools}/bin/cat ${words})" "$1" "$0"'
      } > $out/bin/greet
      chmod +x $out/bin/greet
    ''
  ];
}
