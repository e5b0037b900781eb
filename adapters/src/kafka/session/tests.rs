use std::sync::Mutex;

use futures_util::FutureExt as _;

use super::*;
use crate::source::Arrival;

/// An outlet whose batches settle when the test says so.
#[derive(Default)]
struct Gate(Mutex<Vec<oneshot::Sender<Result<(), Unsettled>>>>);

impl Outlet for Gate {
    fn accept(&self, _: Vec<Arrival>) -> BoxFuture<'_, Result<Settled, Unsettled>> {
        let (settle, settled) = oneshot::channel();
        self.0.lock().unwrap().push(settle);
        let settled: Settled = settled.map(|end| end.unwrap_or_else(|_| Err(Unsettled("gone".into())))).boxed();
        std::future::ready(Ok(settled)).boxed()
    }

    fn has_room(&self) -> bool {
        true
    }

    fn max_event_bytes(&self) -> usize {
        usize::MAX
    }
}

/// Lets everything that can go on go on.
async fn idle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

fn batch(shared: &Shared, next: i64) -> Batch {
    let marks = vec![Mark { partition: 0, epoch: shared.positions.lock().epoch(0).unwrap(), next }];
    shared.positions.lock().hand_over(&marks);
    Batch { marks, ..Batch::default() }
}

#[tokio::test]
async fn only_the_head_of_what_settled_is_committed() {
    let (gate, shared, cancel) = (Gate::default(), Shared::default(), CancellationToken::new());
    shared.positions.lock().assign([0]);
    let (batches, received) = mpsc::channel(4);
    for next in [10, 20, 30] {
        batches.send(batch(&shared, next)).await.unwrap();
    }
    drop(batches);
    let script = async {
        idle().await;
        let mut settle = std::mem::take(&mut *gate.0.lock().unwrap());
        assert_eq!(settle.len(), 3);
        settle.remove(1).send(Ok(())).unwrap();
        idle().await;
        assert_eq!(shared.positions.lock().due(), []);
        settle.remove(0).send(Ok(())).unwrap();
        idle().await;
        assert_eq!(shared.positions.lock().due(), [(0, 20)]);
        settle.remove(0).send(Ok(())).unwrap();
    };
    let (pumped, ()) = tokio::join!(pump(received, &gate, &shared, &cancel), script);
    assert_eq!(pumped, Ok(()));
    assert_eq!(shared.positions.lock().due(), [(0, 30)]);
}

#[tokio::test]
async fn what_is_not_settled_ends_the_session_uncommitted() {
    let (gate, shared, cancel) = (Gate::default(), Shared::default(), CancellationToken::new());
    shared.positions.lock().assign([0]);
    let (batches, received) = mpsc::channel(4);
    batches.send(batch(&shared, 10)).await.unwrap();
    batches.send(batch(&shared, 20)).await.unwrap();
    let script = async {
        idle().await;
        let mut settle = std::mem::take(&mut *gate.0.lock().unwrap());
        settle.remove(1).send(Ok(())).unwrap();
        settle.remove(0).send(Err(Unsettled("closed".into()))).unwrap();
    };
    let (pumped, ()) = tokio::join!(pump(received, &gate, &shared, &cancel), script);
    assert_eq!(pumped, Err(Unsettled("closed".into())));
    assert_eq!(shared.positions.lock().due(), []);
}
