import test from "ava";
import { editDistance, nearest } from "../../../src/config/nearest.js";

test("edit distance counts insertions, deletions and substitutions", (t) => {
  t.is(editDistance("", "abc"), 3);
  t.is(editDistance("kitten", "sitting"), 3);
  t.is(editDistance("same", "same"), 0);
});

test("the nearest name wins; nothing near is nothing", (t) => {
  t.is(nearest("levle", ["format", "level"]), "level");
  t.is(nearest("BinDirs", ["conf_dir", "bin_dirs"]), "bin_dirs");
  t.is(nearest("zzz", ["level", "format"]), undefined);
  t.is(nearest("x".repeat(100_000), ["level"]), undefined);
});
