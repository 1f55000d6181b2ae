#!/usr/bin/env node
/** The podvm command. */
import { main } from "./cli/main.js";

process.exitCode = await main(process.argv);
