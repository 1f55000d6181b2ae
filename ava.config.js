/** Compiled tests only (ava runs what tsc made). build/dev-* are the output folders of developers. */
export default {
  files: ["dist/test/**/*.test.js", "build/dev-*/test/**/*.test.js"],
  timeout: "2m",
  workerThreads: false,
};
