"""Hostile clients beside well-behaved ones: what do the good ones notice, and what does it cost the server?"""
