import jaxpose.cli.forward  # noqa: F401  python -m jaxpose.lift is the command "jaxpose lift"
