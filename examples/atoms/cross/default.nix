# The derivation is built here (`build`), and its name and contents carry what it is for (`host`).
{
  main = derivation {
    name = "tool-${cfg.platforms.host}";
    system = cfg.platforms.build;
    builder = "/bin/sh";
    host = cfg.platforms.host;
    args = [
      "-c"
      "echo \"built on ${cfg.platforms.build} for $host\" > $out"
    ];
  };
  native = derivation {
    name = "native";
    system = cfg.platforms.host;
    builder = "/bin/sh";
    args = [
      "-c"
      "echo native > $out"
    ];
  };
}
