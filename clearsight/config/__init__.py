"""RunConfig and how it is read: schema, families of networks, rules between settings, files."""
