"""The in-tree build backend: setuptools, with torch taken from the environment that installs."""
