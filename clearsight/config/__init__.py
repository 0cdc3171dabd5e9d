"""RunConfig and how it is read: schema, rules between settings, files."""
