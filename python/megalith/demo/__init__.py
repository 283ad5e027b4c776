"""The demonstration: velvet, unmodified, on hosts that are each too small for it.

`data` finds or makes the reads, `native` measures a program as it is, `swap` measures it under a memory
limit, `contigs` reads what comes out, `table` shows the result, and `assembly` puts them in order.
"""
