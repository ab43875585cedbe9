"""All I/O of the parameter server: the protocol (parameter_server.proto), its server and client, and the files."""
