root:
{ extern, config }:
let
  names = builtins.filter (name: builtins.match ".*\\.nix" name != null) (
    builtins.attrNames (builtins.readDir root)
  );
  member = name: builtins.replaceStrings [ ".nix" ] [ "" ] name;
  scope = extern // {
    inherit mod;
    cfg = config;
  };
  mod = builtins.listToAttrs (
    map (name: {
      name = member name;
      value = scopedImport scope (root + "/${name}");
    }) names
  );
in
mod
