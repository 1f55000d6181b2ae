//! The allocator: musl's, with a few large blocks kept between uses.
//!
//! musl gives every block of some ten kilobytes back to the kernel as soon as it is free. A stream of 64 KiB messages would so cost a mmap, a munmap and
//! sixteen page faults for each buffer on its way, which in an emulated guest is most of its time.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Blocks of 16, 32, 64 and 128 KiB are kept: smaller ones musl keeps itself.
const SMALLEST: usize = 16 << 10;
const CLASSES: usize = 4;
/// Of each class: 1.4 MiB in all at most.
const KEPT: usize = 6;

pub struct Caching {
    kept: [[AtomicPtr<u8>; KEPT]; CLASSES],
}

impl Caching {
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Caching {
            kept: [const { [const { AtomicPtr::new(null_mut()) }; KEPT] }; CLASSES],
        }
    }

    /// Gives all kept blocks back.
    pub fn release(&self) {
        for (class, slots) in self.kept.iter().enumerate() {
            for slot in slots {
                let block = slot.swap(null_mut(), Ordering::Acquire);
                if !block.is_null() {
                    unsafe { System.dealloc(block, layout_of(class)) };
                }
            }
        }
    }
}

/// Held by a task that carries a stream: when it ends, the blocks that were kept for it are given back.
pub struct WhileStreaming;

impl Drop for WhileStreaming {
    fn drop(&mut self) {
        crate::MEMORY.release();
    }
}

/// Which class a block is taken from; None: not kept.
fn class_of(layout: Layout) -> Option<usize> {
    let size = layout.size();
    if size <= SMALLEST / 2 || size > SMALLEST << (CLASSES - 1) || layout.align() > 16 {
        return None;
    }
    let whole = size.next_power_of_two().max(SMALLEST);
    Some((whole / SMALLEST).trailing_zeros() as usize)
}

fn layout_of(class: usize) -> Layout {
    // A power of two, and far below the largest size: always valid.
    unsafe { Layout::from_size_align_unchecked(SMALLEST << class, 16) }
}

// Every block of a class is as large as the class, so that any of them serves any request of it.
unsafe impl GlobalAlloc for Caching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(class) = class_of(layout) else {
            return unsafe { System.alloc(layout) };
        };
        for slot in &self.kept[class] {
            if !slot.load(Ordering::Relaxed).is_null() {
                let block = slot.swap(null_mut(), Ordering::Acquire);
                if !block.is_null() {
                    return block;
                }
            }
        }
        unsafe { System.alloc(layout_of(class)) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let Some(class) = class_of(layout) else {
            return unsafe { System.dealloc(block, layout) };
        };
        for slot in &self.kept[class] {
            if slot
                .compare_exchange(null_mut(), block, Ordering::Release, Ordering::Relaxed)
                .is_ok()
            {
                return;
            }
        }
        unsafe { System.dealloc(block, layout_of(class)) };
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (class_of(layout), class_of(new)) {
            (None, None) => unsafe { System.realloc(block, layout, new_size) },
            (from, to) if from == to => block,
            _ => unsafe {
                let moved = self.alloc(new);
                if !moved.is_null() {
                    std::ptr::copy_nonoverlapping(block, moved, layout.size().min(new_size));
                    self.dealloc(block, layout);
                }
                moved
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, 1).unwrap()
    }

    #[test]
    fn classes() {
        let class = |size| class_of(layout(size));
        assert_eq!(
            [class(8 << 10), class((8 << 10) + 1), class(16 << 10)],
            [None, Some(0), Some(0)]
        );
        assert_eq!(
            [class((16 << 10) + 1), class(128 << 10), class((128 << 10) + 1)],
            [Some(1), Some(3), None]
        );
        assert_eq!(class_of(Layout::from_size_align(20_000, 4096).unwrap()), None);
    }

    #[test]
    fn a_block_is_used_again_and_given_back() {
        let memory = Caching::new();
        unsafe {
            let first = memory.alloc(layout(60_000));
            memory.dealloc(first, layout(60_000));
            // Another size of the same class.
            let second = memory.alloc(layout(40_000));
            assert_eq!(first, second);
            let other = memory.alloc(layout(40_000));
            assert_ne!(second, other);
            memory.dealloc(second, layout(40_000));
            memory.dealloc(other, layout(40_000));
        }
        memory.release();
        assert!(memory
            .kept
            .iter()
            .flatten()
            .all(|slot| slot.load(Ordering::Relaxed).is_null()));
    }

    #[test]
    fn more_than_are_kept_and_growth_across_classes() {
        let memory = Caching::new();
        let mut blocks = Vec::new();
        unsafe {
            for i in 0..KEPT as u8 + 3 {
                let block = memory.alloc(layout(10_000));
                block.write_bytes(i, 10_000);
                blocks.push(block);
            }
            for (i, block) in blocks.into_iter().enumerate() {
                let mut block = block;
                let mut size = 10_000;
                for new in [12_000, 50_000, 200_000, 300_000, 90_000, 100] {
                    block = memory.realloc(block, layout(size), new);
                    size = new;
                    assert!((0..size.min(10_000).min(100)).all(|at| *block.add(at) == i as u8));
                }
                memory.dealloc(block, layout(size));
            }
        }
        memory.release();
    }
}
