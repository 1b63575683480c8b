"""Keep the plug-in's own tests out of this repository's run: they need the package installed.

tests/plugins/test_plugin_package.py installs a copy of this folder and runs them.
"""

collect_ignore = ["test_metered.py"]
