"""Sessions through a proxy that breaks their connections: is anything lost, and how long does a resume take?"""
