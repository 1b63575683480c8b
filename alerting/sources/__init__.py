"""The rules, one module per generated file."""
