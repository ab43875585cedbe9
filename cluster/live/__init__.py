"""Live driver: the pieces of a run as Ray actors, on the wall clock. The only importer of Ray.

Ray starts, places and supervises the processes (cluster.actors); what they say to each other goes over gRPC.

    connection   a Ray to run on, and its machines
    site         what every actor of one run is started with; whom the run lost, what a person should know
    servers      shards, ledger and averager: started, asked, and brought back when one is lost
    hosts        worker hosts: placed, resized, and replaced when one is lost
    snapshots    what all servers remember, written down as one set
    depots       what was written on machines that do not share the run directory, brought here
    run          all of them as one run
"""
