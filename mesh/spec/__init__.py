"""Files that describe work: parse, check, expand. Pure: the caller reads the file and sends what comes out.

``sweep.parse`` and ``arguments.grid_from_params`` make a Sweep, ``expand`` makes its job and tasks. Nothing is
imported here, so that who needs only ``units`` does not load a YAML parser.
"""
