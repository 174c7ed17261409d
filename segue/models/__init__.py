"""One architecture, one file: a Section of sizes, then nn.Modules; knows no files and no training."""
