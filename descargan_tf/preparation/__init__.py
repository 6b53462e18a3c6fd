"""Raw files, as hospitals and public collections have them, become a prepared data set (--mode=prepare).

A source lists its images and reads one; what is done with the pixels, which split a patient is in, and how it is run
over cores is the same for all of them.
"""
