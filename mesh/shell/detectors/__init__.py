"""The built-in detectors of :mod:`mesh.shell.detect`."""
