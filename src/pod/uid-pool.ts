import { PodvmError } from "../host/errors.js";

/** Unprivileged user ids, one for each VM that exists, so that a VMM that breaks out owns nothing of another's. */
export class UidPool {
  private readonly used = new Set<number>();
  private next: number;

  constructor(
    private readonly base: number,
    private readonly count: number,
  ) {
    this.next = base;
  }

  /** For a VM found again at start. */
  claim(uid: number): void {
    this.used.add(uid);
  }

  /** The least recently given free one: files that an earlier VM may have left behind stay foreign as long as possible. */
  take(): number {
    for (let tried = 0; tried < this.count; tried++) {
      const uid = this.next;
      this.next = uid + 1 < this.base + this.count ? uid + 1 : this.base;
      if (this.used.has(uid)) continue;
      this.used.add(uid);
      return uid;
    }
    throw new PodvmError("resource_exhausted", `all ${this.count} user ids for VMs are in use; raise vm.uid_count`);
  }

  release(uid: number): void {
    this.used.delete(uid);
  }
}
