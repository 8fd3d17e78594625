//! The body of a response, on its way through hyper.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::account::Account;
use super::reply::Content;
use super::stream::End;

/// A response's body; the request's account is closed with it, or when what hyper still holds of it is with the kernel.
pub struct Body {
    content: Content,
    account: Option<Account>,
}

impl Body {
    pub fn new(content: Content, account: Account) -> Self {
        Body { content, account: Some(account) }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        if let Some(account) = self.account.take_if(|account| account.answered.is_some()) {
            account.connection.clone().keep_until_flushed(account);
        }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let next = match &mut self.content {
            Content::Empty => Err(End::Complete),
            Content::Whole(bytes) if bytes.is_empty() => Err(End::Complete),
            Content::Whole(bytes) => Ok(std::mem::take(bytes)),
            Content::Blocks(blocks) => blocks.pop_front().ok_or(End::Complete),
            Content::File(part) => ready!(part.poll_next(cx)),
            Content::Stream(receiver) => ready!(receiver.poll_next(cx)),
        };
        let next = match next {
            Ok(bytes) => Some(bytes),
            Err(End::Complete) => None,
            Err(End::Cut) => {
                // An error would make hyper drop what it has not written yet.
                if let Some(account) = &self.account {
                    account.connection.cut();
                }
                return Poll::Pending;
            }
        };
        if let (Some(bytes), Some(account)) = (&next, &mut self.account) {
            account.sent += bytes.len() as u64;
        }
        Poll::Ready(next.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Blocks(blocks) => blocks.is_empty(),
            Content::File(part) => part.len() == Some(0),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Blocks(blocks) => SizeHint::with_exact(blocks.iter().map(|block| block.len() as u64).sum()),
            Content::File(part) => part.len().map_or_else(SizeHint::default, SizeHint::with_exact),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}
