"""Reads a composition file: TOML tables, checked, with errors that name file, table and field.

What the tables mean is in `composition.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from eka_runtime.errors import ConfigError

TABLES = ("blobservices", "directoryservices", "pathinfoservices")

FIELDS = {
    "objectstore": ("object_store_url", "object_store_options", "avg_chunk_size"),
    "memory": (),
    "grpc": ("url",),
    "cache": ("near", "far"),
}
"""The types of service that eka has, with the fields of each."""


class Entry(NamedTuple):
    """One service, as stated: `[TABLE.NAME]`."""

    file: str
    table: str
    name: str
    fields: Mapping[str, object]

    @property
    def type(self) -> str:
        """Raises ConfigError, also when there are fields that the type does not have."""
        type = self.text("type")
        unknown = self.fields.keys() - {"type", *FIELDS.get(type, self.fields)}
        if unknown:
            known = ", ".join(f"`{field}`" for field in FIELDS[type]) or "none"
            raise self.error(f"unknown field `{min(unknown)}`", hint=f"fields of `{type}`: {known}")
        return type

    def text(self, field: str) -> str:
        value = self.fields.get(field)
        if not isinstance(value, str) or not value:
            problem = "is missing" if value is None else "must be a non-empty string"
            raise self.error(f"`{field}` {problem}")
        return value

    def number(self, field: str) -> int | None:
        value = self.fields.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise self.error(f"`{field}` must be a number")
        return value

    def options(self, field: str) -> dict[str, str]:
        value = self.fields.get(field, {})
        if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
            raise self.error(f"`{field}` must be a table of strings")
        return value

    def unknown_type(self, absent: Mapping[str, str]) -> ConfigError:
        type = self.text("type")
        why = absent.get(type, f"{self.table} have no such type")
        known = ", ".join(f"`{name}`" for name in FIELDS)
        return self.error(f"type `{type}`: {why}", hint=f"use one of {known}")

    def error(self, problem: str, *, hint: str | None = None) -> ConfigError:
        return ConfigError(f"`{self.file}`: [{self.table}.{self.name}]: {problem}", hint=hint)


class Composition(NamedTuple):
    """The whole file."""

    file: str
    tables: Mapping[str, Mapping[str, Mapping[str, object]]]

    @classmethod
    def read(cls, file: str) -> Composition:
        """Raises ConfigError."""
        import tomli

        try:
            tables = tomli.loads(Path(file).read_text("utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the composition `{file}`: {error}") from error
        except tomli.TOMLDecodeError as error:
            raise ConfigError(f"`{file}` is not valid TOML: {error}") from error
        found = cls(file, tables)
        for table, services in tables.items():
            if table not in TABLES:
                raise found.error(f"unknown table `{table}`", hint=f"use {', '.join(TABLES)}")
            if not isinstance(services, dict) or not all(
                isinstance(entry, dict) for entry in services.values()
            ):
                raise found.error(f"`{table}` must hold tables, one for each service")
        return found

    def entry(self, table: str, name: str) -> Entry:
        fields = self.tables.get(table, {}).get(name)
        if fields is None:
            raise self.error(f"there is no [{table}.{name}]")
        return Entry(self.file, table, name, fields)

    def error(self, problem: str, *, hint: str | None = None) -> ConfigError:
        return ConfigError(f"`{self.file}`: {problem}", hint=hint)
