# For benchmarks: many derivations that do nothing, below one, and one that writes a lot.
{ tools }:
let
  make = attributes: derivation ({ system = "x86_64-linux"; builder = "${tools}/bin/sh"; } // attributes);
  one = number: make { name = "one-${toString number}"; args = [ "-c" "echo ${toString number} > $out" ]; };
in {
  many = make { name = "many"; all = builtins.genList one 500; args = [ "-c" "echo $all > $out" ]; };
  large = make { name = "large"; args = [ "-c" "${tools}/bin/dd if=/dev/zero of=$out bs=1M count=1024; true" ]; };
}
