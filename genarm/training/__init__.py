"""Training autoregressive reward models; needs the `train` extra and is never imported by `import genarm`."""
