import jaxpose.cli.forward  # noqa: F401  python -m jaxpose.compile is the command "jaxpose compile"
