# A builder that gives away, to a process of the host, what it has open for writing.
{ tools, passer }: {
  passing = derivation {
    name = "passing";
    system = "x86_64-linux";
    builder = "${tools}/bin/sh";
    args = [ "-c" "${passer}/passer $out" ];
    __noChroot = "1";
  };
}
