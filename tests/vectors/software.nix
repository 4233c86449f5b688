# Real software from its sources, with nothing but a toolchain and a busybox.
{ tools, toolchain, lua, zlib, hello, deflate, python, markupsafe }:
let
  gcc = "gcc -B${toolchain}/gcc -B${toolchain}/lib -nostdinc -isystem ${toolchain}/gcc/include -isystem ${toolchain}/include -fno-use-linker-plugin -L${toolchain}/lib -L${toolchain}/gcc";
  make = attributes: derivation ({
    system = "x86_64-linux";
    builder = "${tools}/bin/sh";
    PATH = "${toolchain}/bin:${tools}/bin";
    LD_LIBRARY_PATH = "${toolchain}/lib";
    CC = "${gcc} -static";
    CFLAGS = "-O0";
  } // attributes // {
    args = [ "-e" "-c" ''
      ln -s ${toolchain}/lib/ld-linux-x86-64.so.2 /build/
      cp -rp ${attributes.src} source
      chmod -R u+w source
      cd source
      ${attributes.run}
    '' ];
  });
in rec {
  libz = make {
    name = "zlib-1.2.13";
    outputs = [ "out" "dev" ];
    src = zlib;
    run = ''
      ./configure --static --prefix=$out --includedir=$dev/include
      make libz.a
      make teststatic
      mkdir -p $out/lib $dev/include
      cp libz.a $out/lib
      cp zlib.h zconf.h $dev/include
    '';
  };
  interpreter = make {
    name = "lua-5.4";
    src = lua;
    run = ''
      make -C src generic CC="$CC -std=gnu99" MYCFLAGS=-O0 MYLDFLAGS=-static
      mkdir -p $out/bin
      cp src/lua src/luac $out/bin
    '';
  };
  greeting = make {
    name = "hello-2.10";
    src = hello;
    run = ''
      ./configure --prefix=$out --disable-nls --disable-dependency-tracking
      make
      make install
    '';
  };
  wheel = make {
    name = "markupsafe-wheel";
    src = markupsafe;
    PYTHONHOME = python;
    PYTHONPATH = "${python}/site";
    LD_LIBRARY_PATH = "${toolchain}/lib:${python}/lib";
    CIBUILDWHEEL = "1"; # the extension has to be built
    LDSHARED = "${gcc} -shared -nostdlib";
    run = ''
      ${python}/bin/python3 -m pip wheel --no-index --no-deps --no-build-isolation --wheel-dir $out .
      ${python}/bin/python3 -m zipfile -e $out/*.whl /build/installed
      cd /build/installed
      PYTHONPATH=. ${python}/bin/python3 -c 'import markupsafe._speedups; print(markupsafe.escape("<hello>"))'
    '';
  };
  program = make {
    name = "deflate-1.0";
    src = deflate;
    run = ''
      mkdir -p $out/bin
      $CC -isystem ${libz.dev}/include deflate.c -o $out/bin/deflate ${libz}/lib/libz.a
    '';
  };
}
