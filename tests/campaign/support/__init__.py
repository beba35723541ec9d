"""What campaigns are made of: servers as processes, raw clients from many addresses, and a table of promises.

Nothing here imports the product: a campaign knows of the server what goes over the wire, and what the operating
system tells of its process.
"""
