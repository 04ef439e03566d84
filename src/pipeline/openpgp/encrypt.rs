//! Encrypts one message to all recipients, and proves from the bytes written that each of them is addressed.
//!
//! One message per object (GnuPG refuses several in one file), no compression layer, no signature: what is signed is
//! the manifest.

use std::io::Write;

use sequoia_openpgp as openpgp;

use openpgp::Packet;
use openpgp::parse::{PacketParser, PacketParserResult, Parse};
use openpgp::serialize::stream::{self, Encryptor, LiteralWriter, Message};
use openpgp::types::SymmetricAlgorithm;

use super::{OpenPgpError, Recipients};

impl Recipients {
    /// Begins a message whose bytes go to `sink`; what is written to the answer is encrypted. It must be ended with
    /// `finalize`. Buffers up to 8 MiB.
    pub fn encrypt<'a>(&'a self, sink: impl Write + Send + Sync + 'a) -> Result<Message<'a>, OpenPgpError> {
        // sequoia goes by what the certificates advertise; the profile decides here, for GnuPG 2.2's sake.
        let features = self.profile.features();
        let recipients = self
            .list
            .iter()
            .map(|recipient| stream::Recipient::new(features.clone(), recipient.key.key_handle(), &recipient.key));
        let failed = |error| OpenPgpError::failed("begin an encrypted message", error);
        let message = Encryptor::for_recipients(Message::new(sink), recipients)
            .symmetric_algo(SymmetricAlgorithm::AES256)
            .build()
            .map_err(failed)?;
        LiteralWriter::new(message).build().map_err(failed)
    }

    /// Checks that the message whose first bytes are `head` is encrypted to exactly these recipients. `head` must
    /// reach into the encrypted data: 64 KiB are enough for a hundred recipients.
    pub fn check(&self, head: &[u8]) -> Result<(), OpenPgpError> {
        let found = addressees(head).map_err(|error| OpenPgpError::failed("read back the encrypted message", error))?;
        let wanted: Vec<openpgp::KeyHandle> = self.list.iter().map(|recipient| recipient.key.key_handle()).collect();
        let each_once = wanted.iter().all(|key| found.iter().filter(|other| other.aliases(key)).count() == 1);
        if found.len() == wanted.len() && each_once {
            return Ok(());
        }
        let names = |keys: Vec<openpgp::KeyHandle>| keys.iter().map(|key| openpgp::KeyID::from(key).to_hex()).collect();
        Err(OpenPgpError::WrongRecipients { wanted: names(wanted), found: names(found) })
    }
}

/// The keys of the session key packets in front of a message.
fn addressees(head: &[u8]) -> openpgp::Result<Vec<openpgp::KeyHandle>> {
    let mut found = Vec::new();
    let mut next = PacketParser::from_bytes(head)?;
    while let PacketParserResult::Some(parser) = next {
        let Packet::PKESK(packet) = &parser.packet else { break };
        found.push(packet.recipient().unwrap_or_else(|| openpgp::KeyID::wildcard().into()));
        next = parser.next()?.1;
    }
    Ok(found)
}
