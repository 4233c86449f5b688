# The names that evaluated code sees in place of Nix's own, so that it can reach its inputs only.
#
# Nix's restricted mode and the sandbox keep files and the network away; what is left are values
# that differ from one machine or moment to the next, and refusals that do not say what to do. They
# are closed here, in a scope that `import` hands on to every file. An import through a scope is not
# remembered by Nix: `memo` does that, with one lazy value for each file below a root.
#
# Works with Nix 2.8 and later; `traceVerbose`, `warn` and `readFileType` are lent to older ones.
{
  # The system that builders run on.
  system,
  # [{ path; quiet; }]: trees of code. Quiet code may ask for variables, and gets none, as in Nix.
  roots,
}:
let
  b = builtins;

  refuse = what: hint: throw "eka: refused: ${what} is outside the inputs of this evaluation (${hint})";
  network =
    name: argument:
    let
      url =
        if b.isString argument then
          argument
        else if b.isAttrs argument then
          toString (argument.url or argument.name or "?")
        else
          toString argument;
    in
    refuse "the network (`${name} ${url}`)" "declare it in `[deps.direct.nix]`, and eka fetches it";

  newer = {
    traceVerbose = b.traceVerbose or (_: value: value);
    warn = b.warn or b.trace;
    readFileType =
      b.readFileType or (
        path:
        if toString path == "/" then
          "directory"
        else
          (b.readDir (dirOf path)).${b.unsafeDiscardStringContext (baseNameOf (toString path))}
      );
  };

  fetchers =
    b.listToAttrs (
      map
        (name: {
          inherit name;
          value = network name;
        })
        [
          "fetchTarball"
          "fetchGit"
          "fetchTree"
          "fetchMercurial"
        ]
    );

  findFile =
    path: name:
    if b.substring 0 4 name == "nix/" then
      b.findFile [ ] name
    else
      refuse "`<${name}>`" "there is no search path: declare it in `[deps.direct.nix]`";

  scope =
    quiet:
    let
      getEnv =
        name:
        if quiet then
          ""
        else
          refuse "the environment variable `${name}`" "pass it as configuration, with `--set`";
      currentTime = refuse "`builtins.currentTime`" "pass it as configuration, with `--set`";
      impure = {
        inherit getEnv currentTime findFile;
        currentSystem = system;
        nixPath = [ ];
        fetchurl = network "fetchurl";
        getFlake = network "getFlake";
      };
      own = {
        inherit scopedImport;
        import = memo;
      };
      ours = b // newer // fetchers // impure // own // { builtins = ours; };
      self =
        fetchers
        // own
        // {
          builtins = ours;
          __currentSystem = system;
          __currentTime = currentTime;
          __fetchurl = impure.fetchurl;
          __findFile = findFile;
          __getEnv = getEnv;
          __getFlake = impure.getFlake;
          __nixPath = [ ];
        };
    in
    self;

  loud = scope false;
  silent = scope true;

  scopedImport = names: path: scoped (scopeOf path // names) path;

  # snix has none: its own builtins are what code then sees, and the sandbox is all there is.
  scoped = b.scopedImport or (names: path: import path);

  scopeOf =
    path:
    let
      root = rootOf (plain path);
    in
    if root == null then loud else root.scope;

  plain = path: b.unsafeDiscardStringContext (toString path);

  known = map (
    root:
    let
      prefix = toString root.path;
    in
    {
      inherit prefix;
      length = b.stringLength prefix;
      scope = if root.quiet then silent else loud;
      tree = tree (if root.quiet then silent else loud) root.path;
    }
  ) roots;

  rootOf =
    text:
    let
      above = b.filter (
        root:
        b.substring 0 root.length text == root.prefix
        && (b.stringLength text == root.length || b.substring root.length 1 text == "/")
      ) known;
    in
    if above == [ ] then null else b.head above;

  # A file or directory, with its value by `import`, and what is in it.
  tree =
    names: path:
    let
      children = b.mapAttrs (
        name: type:
        let
          place = path + "/${name}";
        in
        if type == "directory" then
          tree names place
        else
          {
            value = scoped names place;
            children = { };
          }
      ) (b.readDir path);
    in
    {
      inherit children;
      value =
        if children ? "default.nix" then children."default.nix".value else scoped names path;
    };

  memo =
    path:
    let
      text = plain path;
      root = rootOf text;
      rest = b.filter (part: b.isString part && part != "" && part != ".") (
        b.split "/" (b.substring root.length (b.stringLength text) text)
      );
      found = b.foldl' (
        node: part: if node == null then null else node.children.${part} or null
      ) root.tree rest;
    in
    if root == null then
      scoped loud path
    # What a symbolic link leads to is not in the tree under this name.
    else if found == null then
      scoped root.scope path
    else
      found.value;
in
{
  import = memo;
  inherit scopedImport;
}
