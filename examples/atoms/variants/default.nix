let
  greeting = if cfg.style == "loud" then "HELLO ${cfg.name}!" else "hello ${cfg.name}";
in
{
  inherit greeting;
  main = derivation {
    name = "greeter";
    system = cfg.platforms.build;
    builder = "/bin/sh";
    inherit greeting;
    inherit (cfg) times;
    args = [
      "-c"
      ''
        mkdir -p $out/bin
        printf '#!/bin/sh\nfor i in $(seq %s); do echo "%s"; done\n' "$times" "$greeting" > $out/bin/greeter
        chmod +x $out/bin/greeter
      ''
    ];
    PATH = "/bin:/usr/bin";
  };
}
