"hello, ${deps.from.here.settings.package.meta.description}; ${deps.from.here.variants.greeting}"
