"""The one place the version is written; kept import-free because every start may read it."""

__version__ = "0.1.0"
