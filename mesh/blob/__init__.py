"""What blobs are made of: manifests and chunks, and the files that hold them. For runners and clients as well as meshd.

A blob is immutable bytes. It is cut in chunks of up to 1 MiB that restart at every segment (a tensor, a file), so that
what did not change is the same chunk again; its *manifest* lists them, and its id is the BLAKE3 of its manifest. So an
id proves the manifest, the manifest proves every chunk, and none of them can be wrong without being found out.

What the bytes mean is a matter of two formats: training states (``states``, over ``layout``, ``values``, ``tensors``),
which any reader of safetensors reads, and directories (``trees``, over ``entries``, ``ignore``).
"""
