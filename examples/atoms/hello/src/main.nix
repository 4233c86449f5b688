# What is built is a shell script, which runs in a bundle with the /bin/sh that every bundle has.
derivation {
  name = "hello-${cfg.package.version}";
  system = cfg.platforms.build;
  builder = "/bin/sh";
  args = [
    "-c"
    ''
      mkdir -p $out/bin
      printf '#!/bin/sh\necho "%s"\n' "${mod.text}" > $out/bin/hello
      chmod +x $out/bin/hello
    ''
  ];
  PATH = "/bin:/usr/bin";
}
