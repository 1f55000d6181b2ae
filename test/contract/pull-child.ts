/** A process to kill: opens the store in argv[2], says so, and pulls argv[3] (registry.test.ts). */
import { silentLogger } from "../../src/host/log.js";
import { parseReference } from "../../src/image/reference.js";
import { createImageStore } from "../../src/image/store.js";
import { testAssets } from "../support/registry-push.js";

const [, , stateDir = "", reference = ""] = process.argv;
const store = createImageStore({ stateDir, assets: testAssets(), logger: silentLogger });
await store.open();
process.stdout.write("open\n");
await store.pull(parseReference(reference));
