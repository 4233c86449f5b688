# Builds that are killed in the middle: two outputs, small and large files, a reference between them.
{ tools }:
let
  one = number: {
    name = "n${toString number}";
    value = derivation {
      name = "crash-${toString number}";
      system = "x86_64-linux";
      builder = "${tools}/bin/sh";
      PATH = "${tools}/bin";
      outputs = [ "out" "dev" ];
      args = [ "-e" "-c" ''
        mkdir -p $out/small $dev
        i=0
        while [ $i -lt 60 ]; do echo ${toString number} $i > $out/small/$i; i=$((i+1)); done
        for size in 70000 700000 7000000; do yes ${toString number} | head -c $size > $out/$size; done
        echo $out > $dev/uses
      '' ];
    };
  };
in builtins.listToAttrs (builtins.genList one 200)
