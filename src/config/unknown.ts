import { nearest } from "./nearest.js";

/** The part of a valibot schema that the walk below reads. */
interface SchemaNode {
  type: string;
  entries?: Record<string, SchemaNode>;
  wrapped?: SchemaNode;
  value?: SchemaNode;
}

export interface UnknownKey {
  path: string[];
  /** Full path of the known key that was most likely meant. */
  suggestion?: string;
}

const isTable = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Date);

const unwrap = (node: SchemaNode): SchemaNode => (node.wrapped ? unwrap(node.wrapped) : node);

const ownEntry = (schema: SchemaNode, key: string): SchemaNode | undefined =>
  schema.entries && Object.hasOwn(schema.entries, key) ? schema.entries[key] : undefined;

/** Path as TOML writes it: image.registries."localhost:5000".mirrors */
export function tomlPath(path: readonly (string | number)[]): string {
  return path.map((part) => (/^[A-Za-z0-9_-]+$/.test(String(part)) ? String(part) : JSON.stringify(part))).join(".");
}

/** Every path that the schema knows, records' own keys left out. */
function knownPaths(schema: SchemaNode, at: string[] = []): string[][] {
  const entries = Object.entries(unwrap(schema).entries ?? {});
  return entries.flatMap(([key, child]) => [[...at, key], ...knownPaths(child, [...at, key])]);
}

/** All keys of a parsed document that its schema does not know, each with the nearest known one: in its own table, else elsewhere. */
export function unknownKeys(root: SchemaNode, document: Record<string, unknown>): UnknownKey[] {
  const everywhere = knownPaths(root);
  const found: UnknownKey[] = [];
  const suggest = (key: string, table: SchemaNode, at: string[]): string | undefined => {
    const near = nearest(key, Object.keys(table.entries ?? {}));
    if (near) return tomlPath([...at, near]);
    const elsewhere = everywhere.find((path) => path.at(-1) === key.replaceAll("-", "_"));
    return elsewhere && tomlPath(elsewhere);
  };
  const walk = (node: SchemaNode, value: unknown, at: string[]): void => {
    const schema = unwrap(node);
    if (!isTable(value)) return; // a wrong type is the validation's to report
    for (const [key, inner] of Object.entries(value)) {
      const path = [...at, key];
      const child = schema.type === "record" ? schema.value : ownEntry(schema, key);
      if (child) {
        walk(child, inner, path);
      } else if (schema.entries) {
        const suggestion = suggest(key, schema, at);
        found.push(suggestion === undefined ? { path } : { path, suggestion });
      }
    }
  };
  walk(root, document, []);
  return found;
}
