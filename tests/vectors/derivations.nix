# Every kind of derivation, for comparing with what Nix makes of it. Nothing here is built.
let
  make = attributes:
    derivation ({ system = "x86_64-linux"; builder = "/bin/sh"; } // attributes);
  zeros = "0000000000000000000000000000000000000000000000000000000000000000";
  fixed = attributes: make ({
    name = "fetched";
    outputHash = zeros;
    outputHashAlgo = "sha256";
    outputHashMode = "recursive";
  } // attributes);
  floating = make {
    name = "floating";
    __contentAddressed = true;
    outputHashAlgo = "sha256";
    outputHashMode = "recursive";
    outputs = [ "out" "dev" ];
  };
  chain = depth: if depth == 0 then plain else make {
    name = "link-${toString depth}";
    before = chain (depth - 1);
  };
  plain = make {
    name = "plain";
    args = [ "a\"\\\n\t\r" "é" "$x" "" ];
    text = "line\n";
    "strange \"key\"" = "value";
  };
  several = make { name = "several"; outputs = [ "out" "lib" "a.b" ]; };
  impure = make { name = "impure"; __impure = true; };
in {
  inherit plain floating several impure;
  fixed = fixed { };
  flat = make { name = "flat"; outputHash = "sha1-AAAAAAAAAAAAAAAAAAAAAAAAAAA="; };
  md5 = make { name = "md5"; outputHash = "d41d8cd98f00b204e9800998ecf8427e"; outputHashAlgo = "md5"; };
  # Two ways to one content: for hashes modulo they are the same input.
  merged = make { name = "merged"; first = fixed { way = 1; }; second = fixed { way = 2; }; };
  uses = make { name = "uses"; inherit several; lib = several.lib; source = ./derivations.nix; };
  deferred = make { name = "deferred"; inherit floating; };
  after-deferred = make { name = "after-deferred"; before = make { name = "d"; inherit floating; }; };
  floating-by-floating = make {
    name = "floating-by-floating";
    inherit floating;
    dev = floating.dev;
    __contentAddressed = true;
    outputHashAlgo = "sha256";
    outputHashMode = "flat";
  };
  structured = make {
    name = "structured";
    __structuredAttrs = true;
    outputs = [ "out" "doc" ];
    numbers = [ 1 2.5 { deep = null; } ];
  };
  chained = chain 60;
}
