"""The families that compare the features of a frozen backbone: padim, patchcore and features."""
