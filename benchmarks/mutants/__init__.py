"""How many small mistakes put into the code the tests notice; see `__main__` for the command.

    make      the mutants of a module, from its syntax tree
    install   puts one into the modules that are loaded
    session   runs, for each mutant, the tests that execute its line, in a forked process
    report    scores and survivors as JSON and as a page

`modules.toml` says which tests stand for which module, `known.toml` holds what is known of survivors.
"""
