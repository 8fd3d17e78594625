//! The body of a response, on its way through hyper.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::account::Account;
use super::reply::Content;
use super::stream::End;

/// The site's body was not whole: hyper closes the connection without ending the message.
#[derive(Debug)]
pub struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("the site did not finish its response")
    }
}

impl std::error::Error for Cut {}

/// A response's body; the request's account is closed with it.
pub struct Body {
    content: Content,
    account: Account,
}

impl Body {
    pub fn new(content: Content, account: Account) -> Self {
        Body { content, account }
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let next = match &mut self.content {
            Content::Empty => Ok(None),
            Content::Whole(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Content::Blocks(blocks) => Ok(blocks.pop_front()),
            Content::Stream(receiver) => match std::task::ready!(receiver.poll_next(cx)) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(End::Complete) => Ok(None),
                Err(End::Cut) => Err(Cut),
            },
        };
        if let Ok(Some(bytes)) = &next {
            self.account.sent += bytes.len() as u64;
        }
        Poll::Ready(next.map(|bytes| bytes.map(Frame::data)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(bytes) => bytes.is_empty(),
            Content::Blocks(blocks) => blocks.is_empty(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Blocks(blocks) => SizeHint::with_exact(blocks.iter().map(|block| block.len() as u64).sum()),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}
