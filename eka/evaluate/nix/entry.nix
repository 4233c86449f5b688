# From a request of eka to the value that was asked for: spec/evaluation.md has its form.
#
# Everything is fetched, checked and resolved before: a request names directories that are there.
# Each atom and each pin is one lazy attribute, so it is evaluated once however many depend on it.
# What an atom gets is the contract of nix-lock: `deps.from.<set>.<label>`, `deps.pins.<name>`,
# `deps.get.<name>`, `cfg`, and names of `extern`; `deps.sources.<name>` is eka's own.
let
  b = builtins;
  request = b.fromJSON (b.readFile ./request.json);

  codeRoots =
    map (atom: {
      path = directory atom.root;
      quiet = false;
    }) (b.attrValues request.atoms)
    ++ map (pin: {
      path = directory pin.path;
      quiet = true;
    }) (b.attrValues request.pins)
    ++ map (path: {
      path = directory path;
      quiet = false;
    }) request.sources;

  pure = import ./scope.nix {
    system = request.platforms.build;
    roots = codeRoots;
  };

  directory = text: /. + text;
  below = root: entry: if entry == "" || entry == "." then root else root + "/${entry}";

  # A valid store path, as fetchers return it.
  inStore = text: b.appendContext text { ${text} = { path = true; }; };

  pins = b.mapAttrs (
    _: pin:
    let
      src = inStore pin.path;
    in
    {
      inherit src;
      import = entry: pure.import (below (directory pin.path) entry);
    }
  ) request.pins;

  sources = b.mapAttrs (_: source: {
    src = import <nix/fetchurl.nix> { inherit (source) url hash; };
  }) request.get;

  atoms = b.mapAttrs (key: atom: composeBy.${atom.compose.use} key atom) request.atoms;

  depsOf = atom: {
    from = b.mapAttrs (_: b.mapAttrs (_: key: atoms.${key})) atom.deps.from;
    pins = b.mapAttrs (_: key: pins.${key}) atom.deps.pins;
    get = b.mapAttrs (_: key: sources.${key}) atom.deps.get;
    sources = b.mapAttrs (_: key: pins.${key}) atom.deps.sources;
  };

  configOf = atom: atom.config // { inherit (atom) package; };
  externOf = atom: request.extern // { deps = depsOf atom; };

  composeBy = {
    atom =
      key: atom:
      let
        compose = atoms.${atom.compose.composer};
      in
      if b.isFunction compose then
        compose (below (directory atom.root) atom.compose.entry) {
          extern = externOf atom;
          config = configOf atom;
        }
      else
        throw "eka: the composer of `${atom.package.label}` is ${b.typeOf compose}, not a function";
    nix =
      key: atom:
      let
        extern = externOf atom;
      in
      pure.scopedImport (
        extern
        // {
          atoms = extern;
          cfg = configOf atom;
        }
      ) (below (directory atom.root) atom.compose.entry);
    static = key: atom: b.fromTOML (b.readFile (directory atom.root + "/atom.toml"));
  };

  # What is not an atom: a file or a directory with a default.nix, called with what it asks for.
  root =
    if request.root ? atom then atoms.${request.root.atom} else pure.import (directory request.root.file);

  arguments =
    request.config
    // {
      cfg = request.config;
      inherit (request) platforms;
      system = request.platforms.build;
    }
    // (if request.root ? atom then externOf request.atoms.${request.root.atom} else request.extern);

  called =
    value:
    if b.isFunction value && b.functionArgs value != { } then
      value (b.intersectAttrs (b.functionArgs value) arguments)
    else
      value;

  select =
    value: names: above:
    let
      name = b.head names;
      here = called value;
      place = if above == "" then "the value" else "`${above}`";
    in
    if names == [ ] then
      here
    else if !b.isAttrs here then
      throw "eka: no attribute: ${place} is ${kind here}, and has no `${name}`"
    else if !(here ? ${name}) then
      throw "eka: no attribute: ${place} has no `${name}`; it has ${listed (b.attrNames here)}"
    else
      select here.${name} (b.tail names) (if above == "" then name else "${above}.${name}");

  # Of what `called` leaves as it is: it cannot tell `{ ... }:` from `x:`.
  kind = value: if b.isFunction value then "a function that names no arguments" else b.typeOf value;

  listed =
    names:
    let
      some = b.filter (i: i < 12) (b.genList (i: i) (b.length names));
      text = b.concatStringsSep ", " (map (i: "`${b.elemAt names i}`") some);
    in
    if names == [ ] then
      "none"
    else if b.length names > 12 then
      "${text}, …"
    else
      text;

  isDerivation = value: b.isAttrs value && value.type or null == "derivation";

  # [{ attr; value; }]: a derivation, `main` of a set, or all derivations in a set.
  derivations =
    value: above:
    let
      here = called value;
      attr = name: if above == "" then name else "${above}.${name}";
      members = b.concatMap (
        name:
        let
          member = here.${name};
        in
        if isDerivation member || (b.isAttrs member && member.recurseForDerivations or false) then
          derivations member (attr name)
        else
          [ ]
      ) (b.attrNames here);
    in
    if isDerivation here then
      [
        {
          attr = above;
          value = here;
        }
      ]
    else if !b.isAttrs here then
      throw "eka: no derivation: ${if above == "" then "the value" else "`${above}`"} is ${kind here}"
    else if above == request.attrText && here ? main then
      derivations here.main (attr "main")
    else
      members;

  planned =
    { attr, value }:
    {
      inherit attr;
      inherit (value) drvPath name system;
      output = value.outputName or "out";
      outputs = b.listToAttrs (
        map (output: {
          name = output;
          value = value.${output}.outPath;
        }) (value.outputs or [ "out" ])
      );
      program = value.meta.mainProgram or null;
    };

  selected = select root request.attr "";

  # What a shell for a derivation has: the packages that it is built with.
  shellInputs =
    let
      inputs = b.concatMap (name: selected.${name} or [ ]) [
        "packages"
        "nativeBuildInputs"
        "buildInputs"
      ];
    in
    if !(isDerivation selected) then
      map (one: one.value) found
    else
      b.filter isDerivation inputs;
  found = derivations selected request.attrText;
in
if request.mode == "shell" then
  map planned (map (value: {
    attr = "";
    inherit value;
  }) shellInputs)
else if request.mode == "plan" then
  if found == [ ] then
    throw "eka: no derivation: nothing in the value is a derivation; it has ${listed (b.attrNames (called selected))}"
  else
    map planned found
else
  selected
