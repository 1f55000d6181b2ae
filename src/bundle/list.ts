/** What `podvm bundle list` shows. */
import { type AssetFolder, installedAssets } from "./folders.js";
import { type BundleManifest, type GuestManifest, readBundleManifest, readGuestManifest } from "./manifest.js";

export interface InstalledBundle extends AssetFolder {
  kind: "bundle";
  manifest: BundleManifest;
}

export interface InstalledGuest extends AssetFolder {
  kind: "guest";
  manifest: GuestManifest;
}

/** Every installed version with its manifest, the current ones first. Rejects with failed_precondition where a manifest is unreadable. */
export async function listBundle(assetsDir: string): Promise<(InstalledBundle | InstalledGuest)[]> {
  const folders = await installedAssets(assetsDir);
  const listed = await Promise.all(
    folders.map(async (folder): Promise<InstalledBundle | InstalledGuest> => {
      if (folder.kind === "bundle") {
        return { ...folder, kind: "bundle", manifest: await readBundleManifest(folder.path) };
      }
      return { ...folder, kind: "guest", manifest: await readGuestManifest(folder.path) };
    }),
  );
  return listed.sort((a, b) => Number(b.current) - Number(a.current));
}
