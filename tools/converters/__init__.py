"""Raw datasets, in the layout in which they are downloaded, as records: one module a dataset."""
