# Ends when it may: the caller's WAIT is for how many seconds, and the result is known beforehand.
{ tools }:
let
  waiting = name: derivation {
    inherit name;
    system = "x86_64-linux";
    builder = "${tools}/bin/sh";
    PATH = "${tools}/bin";
    args = [ "-c" "echo in the middle; mkdir /build/x; sleep $WAIT; echo hello > $out" ];
    impureEnvVars = [ "WAIT" ];
    outputHashAlgo = "sha256";
    outputHash = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  };
in { killed = waiting "killed"; interrupted = waiting "interrupted"; shared = waiting "shared"; }
