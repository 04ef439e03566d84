//! Parallel gzip: independent members of 1 MiB input each (RFC 1952, section 2.2), made on several threads, in order.
//!
//! Any gunzip that knows members reads the result as one stream. Each member tells its own length in an extra field, so
//! that ours can take members whole ([`super::gunzip`]). Buffers go round: as many blocks exist as were made in
//! the beginning, and that alone is the backpressure. The order is kept by a queue of one-shot receivers, one per
//! block, in the order pushed, whichever thread is done first.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::deflate::{Encoder, Level};
use super::member;

/// Input bytes of one member: large enough that deflate's 32 KiB window hardly notices.
pub const MEMBER_BYTES: usize = 1 << 20;

/// Blocks beyond one for each thread: one being filled, one being consumed, two waiting on either side.
const SPARE_BLOCKS: usize = 4;

/// A buffer for one member: filled by the producer, compressed by a thread.
#[derive(Debug)]
pub struct Block {
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    written: usize,
}

impl Block {
    /// Zeroed memory is not touched by the allocation, so an output costs only what is written to it.
    fn new(output_bytes: usize) -> Self {
        Self { input: vec![0; MEMBER_BYTES], filled: 0, output: vec![0; output_bytes], written: 0 }
    }

    /// Appends as much of `bytes` as there is room for; answers how much that was.
    pub fn append(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.input[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        taken
    }

    /// Bytes that still fit.
    pub fn room(&self) -> usize {
        self.input.len() - self.filled
    }

    /// What is in the block.
    pub fn bytes(&self) -> &[u8] {
        &self.input[..self.filled]
    }

    /// What is in the block, to be corrected in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.input[..self.filled]
    }

    /// Reads until the block is full or `source` ends; answers the bytes read.
    pub fn fill(&mut self, source: &mut dyn io::Read) -> io::Result<&[u8]> {
        self.filled = 0;
        while self.filled < self.input.len() {
            match source.read(&mut self.input[self.filled..]) {
                Ok(0) => break,
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.input[..self.filled])
    }
}

/// A block to be compressed: its number in the stream, and where the member goes.
struct Job {
    number: usize,
    block: Block,
    done: Sender<Block>,
}

/// What goes from the producer to the consumer, in order.
enum Turn {
    Member(Receiver<Block>),
    End,
}

/// The producer's end. Dropped without [`Feeder::finish`] it tells the consumer that the stream is not whole.
pub struct Feeder {
    free: Receiver<Block>,
    jobs: Sender<Job>,
    turns: Sender<Turn>,
    pushed: usize,
}

/// The consumer's end.
pub struct Members {
    turns: Receiver<Turn>,
    free: Sender<Block>,
}

/// One finished member. Dropping it sends its buffers round again.
pub struct Member {
    block: Option<Block>,
    free: Sender<Block>,
}

/// The other end is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compress: the stream was given up")]
pub struct Abandoned;

/// Starts `threads` compressing threads. They end when both ends are dropped. Errors when a thread cannot be started.
pub fn belt(level: Level, threads: NonZeroUsize) -> io::Result<(Feeder, Members)> {
    let blocks = threads.get() + SPARE_BLOCKS;
    let (free, free_blocks) = bounded(blocks);
    let (jobs, next_job) = bounded::<Job>(blocks);
    let (turns, next_turn) = bounded(blocks + 1);
    let output_bytes = member::bound(&mut Encoder::new(level), MEMBER_BYTES);
    for _ in 0..blocks {
        // The queue has room for every block, so that this cannot fail.
        let _ = free.send(Block::new(output_bytes));
    }
    for _ in 0..threads.get() {
        let next_job = next_job.clone();
        thread::Builder::new().name("gzip".into()).spawn(move || compress_all(level, &next_job))?;
    }
    let feeder = Feeder { free: free_blocks, jobs, turns, pushed: 0 };
    Ok((feeder, Members { turns: next_turn, free }))
}

fn compress_all(level: Level, jobs: &Receiver<Job>) {
    let mut encoder = Encoder::new(level);
    for Job { number, mut block, done } in jobs {
        // The output has room for the worst case. Were it not so, dropping `done` tells the consumer.
        let Ok(written) = member::write(&mut encoder, number, &block.input[..block.filled], &mut block.output) else {
            continue;
        };
        block.written = written;
        // A consumer that is gone needs no answer.
        let _ = done.send(block);
    }
}

impl Feeder {
    /// An empty block to fill; waits while all are on their way.
    pub fn block(&self) -> Result<Block, Abandoned> {
        let mut block = self.free.recv().map_err(|_| Abandoned)?;
        block.filled = 0;
        Ok(block)
    }

    /// Sends a filled block on its way.
    pub fn push(&mut self, block: Block) -> Result<(), Abandoned> {
        let (done, member) = bounded(1);
        self.turns.send(Turn::Member(member)).map_err(|_| Abandoned)?;
        self.jobs.send(Job { number: self.pushed, block, done }).map_err(|_| Abandoned)?;
        self.pushed += 1;
        Ok(())
    }

    /// Ends the stream well. A stream without any block becomes one empty member.
    pub fn finish(mut self) -> Result<(), Abandoned> {
        if self.pushed == 0 {
            let block = self.block()?;
            self.push(block)?;
        }
        self.turns.send(Turn::End).map_err(|_| Abandoned)
    }
}

impl Members {
    /// The next member, or nothing after the last.
    pub fn take(&mut self) -> Result<Option<Member>, Abandoned> {
        match self.turns.recv() {
            Ok(Turn::Member(done)) => {
                let block = done.recv().map_err(|_| Abandoned)?;
                Ok(Some(Member { block: Some(block), free: self.free.clone() }))
            }
            Ok(Turn::End) => Ok(None),
            Err(_) => Err(Abandoned),
        }
    }
}

impl Deref for Member {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.block.as_ref().map_or(&[], |block| &block.output[..block.written])
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // A producer that is gone needs no more blocks.
            let _ = self.free.send(block);
        }
    }
}
