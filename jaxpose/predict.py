import jaxpose.cli.forward  # noqa: F401  python -m jaxpose.predict is the command "jaxpose predict"
