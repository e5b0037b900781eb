//! Real servers, the evoke binary, and what arrives where: one test binary, one module a subject.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and reports on standard output"
)]

mod bus_embedded_everywhere;
mod bus_jetstream;
mod bus_kafka;
mod bus_redis;
mod clock;
mod cluster_bus;
mod conditions;
mod conformance;
mod conservation;
mod cron_source;
mod dead_letters;
mod dedupe;
mod delivery;
mod disk_full;
mod docs;
mod durability;
mod examples;
mod faults;
mod function_deadline;
mod function_reload;
mod functions;
mod functions_v1beta1;
mod jetstream_limits;
mod jetstream_login;
mod jetstream_settings;
mod jetstream_site;
mod kafka_cluster;
mod kafka_limits;
mod kafka_login;
mod kafka_publishing;
mod kafka_rebalance;
mod kafka_refusals;
mod kafka_source;
mod kafka_source_expired;
mod kafka_source_login;
mod kafka_source_reload;
mod kafka_topics;
mod kafka_transactions;
mod kill_loop;
mod lifecycle;
mod lost_state;
mod metrics;
mod moves;
mod mqtt_session;
mod mqtt_source;
mod nats_consumer;
mod nats_limits;
mod nats_source;
mod nats_streaming;
mod older_copies;
mod outputs;
mod poisoned_records;
mod quickstart;
mod quiet_outages;
mod rate_limit;
mod redis_large;
mod redis_limits;
mod redis_list;
mod redis_rights;
mod redis_source;
mod redis_source_cluster;
mod redis_topology;
mod reload;
mod reload_drain;
mod reload_watch;
mod replay;
mod reply;
mod send;
mod sharing;
mod source_credentials;
mod source_freezes;
mod source_letters;
mod spans;
mod subscriptions;
mod tls_names;
mod tool_ways;
mod tools;
mod validate;
mod webhook_source;

use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use evoke_tests::case::{self, Skipped, Verdict};
use evoke_tests::{scratch, servers};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use tokio::runtime::Runtime;

/// Most of a test is waiting for servers and processes, so more of them run at once than a small machine has cores.
const TESTS_AT_ONCE: usize = 5;
/// Bounds what hangs: many times what a test takes.
const LIMIT: Duration = Duration::from_secs(600);
const LONG: Duration = Duration::from_secs(900);

/// Name, time limit, body.
type Listed = (&'static str, Duration, fn() -> Test);
type Test = Pin<Box<dyn Future<Output = Verdict>>>;

/// Every test by module and name; an `async fn` that is missing here is dead code, which the lints refuse.
macro_rules! tests {
    ($($module:ident [$limit:expr]: $($test:ident),+ $(,)?;)+) => {
        vec![$($((
            concat!(stringify!($module), "::", stringify!($test)),
            $limit,
            (|| Box::pin($module::$test())) as fn() -> Test,
        )),+),+]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(TESTS_AT_ONCE);
    case::capture_panics();
    let runtime = Arc::new(tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap());
    let tests: Vec<Listed> = tests! {
        bus_embedded_everywhere [LIMIT]:
            a_bus_that_is_away_or_elsewhere_is_inside_and_keeps_its_limit;
        bus_redis [LIMIT]:
            events_are_readable_on_the_wire_and_foreign_ones_are_taken,
            a_server_that_is_killed_under_load_loses_nothing,
            evoke_that_is_killed_goes_on_where_it_was,
            a_server_that_is_down_at_start_is_waited_for,
            wrong_credentials_are_named_and_right_ones_work_over_tls,
            a_server_that_evicts_is_refused_by_name,
            a_server_without_streams_is_named,
            a_user_that_may_not_publish_is_named,
            a_full_server_pauses_and_resumes,
            max_bytes_pauses_and_resumes,
            a_failover_loses_nothing_that_replicas_have,
            a_replica_that_is_late_has_nothing_sent_again,
            a_cluster_of_three_is_one_bus,
            a_server_that_came_back_empty_is_counted_and_goes_on;
        bus_kafka [LIMIT]:
            an_event_crosses_the_bus_as_every_kafka_client_reads_it,
            a_killed_broker_comes_back_and_nothing_is_lost,
            a_frozen_broker_goes_on_and_nothing_is_lost,
            evoke_survives_kills_on_a_kafka_bus,
            a_broker_that_is_down_at_the_start_is_waited_for,
            what_a_leader_with_a_fast_clock_wrote_is_no_other_log,
            a_log_that_was_put_back_and_grew_is_noticed_by_who_waits_for_more;
        bus_kafka [LONG]:
            a_leader_that_goes_away_loses_nothing,
            copies_survive_a_broker_and_too_many_are_named;
        clock [LIMIT]:
            a_clock_that_steps_back_holds_up_nothing,
            a_clock_that_is_not_the_broker_s_is_a_warning;
        cluster_bus [LIMIT]:
            the_bus_of_a_namespace_goes_before_that_of_the_cluster,
            a_secret_is_looked_for_where_it_may_be;
        bus_jetstream [LIMIT]:
            events_lie_on_the_servers_in_binary_mode_and_foreign_ones_are_read,
            servers_that_are_down_at_start_are_waited_for,
            a_server_that_is_killed_and_frozen_under_load_loses_nothing,
            evoke_that_is_killed_under_load_goes_on_where_it_was,
            every_way_to_log_in_works_and_a_refusal_is_named,
            tls_is_spoken_and_a_stranger_is_named,
            servers_without_batches_store_one_event_after_the_other,
            a_server_that_comes_back_with_an_older_copy_is_noticed,
            a_stream_that_is_deleted_is_made_anew_and_read_from_its_start,
            a_full_stream_blocks_and_goes_on,
            what_a_stream_drops_is_named_whenever_it_does,
            an_event_above_the_servers_limit_is_dead_lettered_with_the_cause,
            no_more_is_put_aside_than_the_servers_take_as_a_position,
            a_stream_made_anew_with_fewer_partitions_is_noticed,
            an_event_that_is_published_again_is_stored_once_and_counted,
            a_leader_that_goes_away_loses_nothing;
        conditions [LIMIT]:
            conditions_read_attributes_and_data,
            a_join_needs_both_and_reads_the_latest,
            a_join_survives_restart_and_kill;
        conservation [LIMIT]:
            what_a_full_embedded_bus_drops_is_counted,
            a_batch_that_is_larger_than_the_bus_holds_up_nothing,
            what_waited_on_a_server_that_came_back_empty_is_counted;
        cron_source [LIMIT]:
            ticks_come_on_time_and_once,
            missed_ticks_are_caught_up_where_asked,
            only_what_was_missed_is_caught_up,
            a_reload_that_waits_loses_no_tick,
            a_reload_loses_no_tick_on_a_shared_bus;
        dead_letters [LIMIT]:
            dead_letters_are_listed_shown_and_purged,
            a_redrive_goes_to_the_one_subscriber_as_the_event_was,
            a_redrive_survives_kills,
            what_nobody_runs_is_left_alone,
            a_redrive_without_evoke_delivers_by_itself;
        dedupe [LIMIT]:
            two_subscribers_of_one_topic_both_publish,
            two_subscribers_of_one_topic_both_publish_on_jetstream,
            two_subscribers_of_one_topic_both_publish_on_kafka,
            two_subscribers_of_one_topic_both_publish_on_redis,
            a_replay_into_a_topic_is_stored,
            the_same_reply_of_two_functions_is_stored_twice;
        delivery [LIMIT]:
            what_may_work_later_is_retried_until_it_does,
            retry_after_is_honoured,
            what_fails_for_good_is_dead_lettered_with_its_cause,
            a_dead_letter_topic_is_read_by_a_trigger,
            a_topic_passes_events_on,
            one_bad_subscriber_neither_delays_nor_repeats_for_others,
            max_in_flight_is_real,
            events_of_one_key_keep_their_order,
            a_sink_that_comes_back_gets_everything,
            a_redirect_is_not_followed,
            what_can_never_work_is_a_dead_letter_at_once,
            a_long_retry_has_no_place_and_holds_back_its_key_alone,
            a_function_is_reached_by_every_name_it_has;
        disk_full [LIMIT]:
            a_full_disk_pauses_sources_and_loses_nothing;
        docs [LIMIT]:
            source_kafka,
            source_cron,
            source_redis,
            source_mqtt,
            source_nats,
            source_webhook,
            bus_embedded,
            bus_jetstream,
            bus_kafka,
            bus_redis,
            sink_http,
            runtime_process;
        durability [LIMIT]:
            no_answer_leaves_before_its_data_is_synced;
        examples [LIMIT]:
            the_same_pipeline_runs_on_every_bus;
        faults [faults::limit()]:
            an_embedded_bus_loses_nothing,
            an_embedded_bus_on_a_small_disk_loses_nothing,
            a_bus_on_jetstream_loses_nothing,
            a_bus_on_three_nats_servers_loses_nothing,
            a_bus_on_kafka_loses_nothing,
            a_bus_on_three_kafka_brokers_loses_nothing,
            a_bus_on_redis_loses_nothing,
            a_bus_on_redis_with_a_replica_loses_nothing;
        function_deadline [LIMIT]:
            those_that_ignore_sigterm_are_killed_by_the_deadline;
        function_reload [LIMIT]:
            one_that_changed_is_replaced_under_load_and_no_other_is,
            one_that_goes_with_its_trigger_finishes_and_ends,
            one_that_goes_while_it_hangs_is_asked_to_end,
            one_that_is_still_referred_to_does_not_go;
        functions [LIMIT]:
            a_function_gets_its_environment_and_its_output_has_its_name,
            a_function_that_exits_at_once_is_started_again_and_named,
            a_function_that_dies_comes_back_and_gets_what_it_did_not_finish,
            hangs_and_garbage_end_in_the_dead_letter_and_stop_nothing_else,
            sigterm_lets_a_function_finish,
            a_function_that_ignores_sigterm_is_killed,
            nothing_is_left_behind_by_a_kill;
        jetstream_limits [LIMIT]:
            what_a_full_stream_drops_is_counted_for_whom_it_is_lost,
            what_is_dropped_of_several_partitions_is_not_counted_too_low,
            what_grows_too_old_on_the_server_is_counted_for_whom_it_is_lost,
            a_full_disk_of_the_server_pauses_sources_and_loses_nothing,
            a_disk_that_fills_up_under_load_is_named_and_loses_nothing;
        jetstream_login [LIMIT]:
            a_user_that_is_removed_is_named_and_goes_on_when_it_is_back,
            credentials_that_expire_are_named_and_new_ones_go_on;
        jetstream_settings [LIMIT]:
            what_changes_in_the_manifest_or_on_the_server_is_as_the_manifest_says,
            a_stream_with_other_settings_is_changed_or_named,
            a_retention_that_loses_events_is_named,
            more_replicas_than_there_are_servers_are_named,
            a_change_that_nats_refuses_holds_up_no_other,
            a_change_that_waits_for_another_is_made_beside_one_that_nats_refuses,
            replicas_follow_the_manifest_as_far_as_there_are_servers,
            positions_are_kept_as_often_as_the_events,
            everything_is_kept_in_memory_where_asked;
        functions_v1beta1 [LIMIT]:
            a_function_of_the_version_before_runs_as_it_says,
            what_is_said_of_it_names_what_it_says;
        kafka_cluster [LONG]:
            a_broker_that_is_down_at_start_is_waited_for,
            a_broker_that_is_killed_and_comes_back_loses_nothing,
            a_second_evoke_joins_and_leaves_the_group,
            a_foreign_consumer_joins_and_leaves_the_group,
            a_broker_that_freezes_loses_nothing;
        kafka_limits [LIMIT]:
            what_is_deleted_under_a_paused_subscription_is_counted_and_named,
            what_a_slow_subscription_has_not_read_of_a_topic_that_is_cut_to_size_is_counted,
            what_ages_out_while_it_waits_for_a_retry_is_counted_at_the_next_start,
            a_broker_that_ends_on_a_full_disk_is_waited_for_and_nothing_is_lost,
            an_event_that_the_topic_does_not_take_is_a_dead_letter;
        kafka_login [LIMIT]:
            credentials_log_in_or_are_named,
            a_manifest_with_credentials_runs,
            tls_is_spoken_and_a_stranger_is_named,
            a_user_that_is_removed_while_connected_is_named_and_welcome_again;
        kafka_rebalance [LIMIT]:
            a_retry_without_a_bus_survives_a_rebalance,
            a_member_that_is_frozen_comes_back;
        kafka_publishing [LIMIT]:
            what_a_topic_no_longer_takes_is_a_dead_letter_and_the_rest_keeps_its_order,
            nothing_overtakes_a_batch_that_is_refused,
            what_a_client_had_that_gave_up_is_stored_before_anything_later;
        kafka_refusals [LIMIT]:
            state_is_stored_while_the_brokers_refuse_events,
            an_event_is_taken_once_its_topic_takes_more;
        kafka_source [LIMIT]:
            a_plain_record_keeps_key_headers_and_position,
            a_record_that_is_an_event_is_taken_as_one,
            what_cannot_be_an_event_is_dead_lettered_and_passed_by,
            reading_starts_where_the_manifest_says,
            sasl_and_tls_log_in,
            a_client_certificate_logs_in,
            rejected_credentials_are_named_and_hold_up_nobody_else,
            a_sink_without_a_bus_holds_the_commit,
            a_second_process_joins_and_leaves_where_there_is_only_a_sink;
        kafka_source_expired [LIMIT]:
            an_expired_offset_restarts_at_the_earliest_and_is_counted;
        kafka_source_login [LIMIT]:
            a_user_that_is_removed_while_connected_is_named_and_misses_nothing;
        kafka_source_reload [LIMIT]:
            one_that_is_edited_under_load_loses_and_repeats_nothing;
        kafka_topics [LIMIT]:
            a_topic_with_fewer_partitions_is_used_as_it_is,
            a_topic_made_again_is_read_from_its_beginning,
            partitions_that_others_add_are_taken_up,
            letters_are_listed_where_others_gave_the_store_partitions,
            kafka_s_own_tools_see_how_far_a_trigger_is;
        kafka_transactions [LIMIT]:
            a_bus_gives_what_is_committed_and_is_at_its_end,
            a_source_reads_what_is_committed;
        kill_loop [LONG]:
            kafka_records_survive_twenty_kills,
            webhook_events_survive_twenty_kills;
        lifecycle [LIMIT]:
            wrong_usage_is_2_and_what_cannot_start_is_1,
            a_port_that_is_taken_is_named,
            the_drain_finishes_what_is_under_way,
            a_sink_that_hangs_takes_no_time_from_the_last_steps,
            a_second_signal_ends_at_once_and_loses_nothing,
            ctrl_c_drains_as_sigterm_does,
            one_evoke_uses_a_data_directory,
            a_log_that_was_cut_off_is_taken_up,
            set_and_bus_run_a_cluster_s_manifests,
            the_admin_address_answers_this_machine_only,
            pages_of_elsewhere_read_no_admin_address,
            a_port_that_the_system_chooses_is_told_once_it_is_known,
            logs_are_json_where_asked,
            a_bus_becomes_another_kind_when_nothing_waits_or_it_is_abandoned;
        lost_state [LIMIT]:
            a_bucket_that_is_deleted_keeps_what_is_parked,
            a_state_topic_that_is_deleted_keeps_what_is_parked,
            hashes_that_are_deleted_keep_what_is_parked,
            a_state_topic_that_is_deleted_is_made_again,
            who_works_on_what_outlives_a_bucket_that_is_deleted;
        metrics [LIMIT]:
            a_scrape_is_what_the_docs_say,
            no_secret_shows_anywhere;
        moves [LIMIT]:
            a_join_moves_with_its_window,
            a_join_moves_with_its_window_on_jetstream,
            a_join_moves_with_its_window_on_kafka;
        mqtt_session [LIMIT]:
            a_clean_session_brings_only_what_comes_while_evoke_is_there,
            a_password_that_is_withdrawn_is_named_and_what_comes_meanwhile_waits,
            two_sources_of_one_id_are_two_clients;
        mqtt_source [LIMIT]:
            messages_become_events,
            the_older_version_is_spoken_where_asked,
            a_message_that_is_an_event_is_taken_as_one,
            what_is_too_large_is_dead_lettered_and_passed_by,
            a_retained_message_and_a_will_come_as_they_are,
            nothing_is_acknowledged_before_it_is_durable,
            what_is_published_while_evoke_is_away_arrives,
            a_kill_of_evoke_under_load_loses_nothing,
            a_broker_that_is_killed_and_comes_back_loses_nothing,
            rejected_credentials_are_named,
            a_topic_that_may_not_be_read_is_named,
            a_client_certificate_logs_in,
            a_client_that_takes_the_session_over_is_named,
            processes_share_a_subscription;
        nats_consumer [LIMIT]:
            a_subject_that_is_edited_becomes_the_filter,
            a_subject_that_is_taken_out_is_no_filter_any_more,
            a_filter_of_somebody_else_stays,
            a_message_that_is_larger_than_the_consumer_s_limit_comes_too,
            a_start_that_is_edited_is_that_of_the_next_consumer,
            a_filter_that_the_server_does_not_take_is_named,
            a_consumer_that_would_lose_messages_is_named;
        nats_limits [LIMIT]:
            an_edited_source_keeps_its_consumer,
            what_is_on_its_way_is_bounded_and_the_lag_has_all_of_it,
            what_core_subjects_skip_is_counted;
        nats_source [LIMIT]:
            messages_of_a_subject_become_events,
            a_queue_group_shares_the_messages_of_a_subject,
            messages_of_a_stream_become_events,
            a_consumer_starts_where_the_manifest_says,
            nothing_is_acknowledged_before_it_is_settled,
            kills_of_evoke_and_of_the_server_lose_nothing,
            two_processes_share_a_consumer,
            a_consumer_that_is_gone_is_made_again,
            each_way_to_log_in_and_one_that_is_refused,
            what_the_user_may_not_read_is_named,
            a_subject_that_nobody_publishes_on_is_ready;
        poisoned_records [LIMIT]:
            they_are_passed_by_on_jetstream,
            they_are_passed_by_on_kafka,
            they_are_passed_by_on_redis,
            they_are_no_lag_on_jetstream,
            they_are_no_lag_on_kafka,
            they_are_no_lag_on_redis;
        nats_streaming [LIMIT]:
            every_field_is_honoured_or_warned_of,
            events_flow_and_the_warnings_are_printed;
        older_copies [LIMIT]:
            a_redis_that_comes_back_with_one_is_noticed_and_counted,
            what_others_write_on_one_of_redis_arrives,
            a_subscriber_that_is_busy_misses_nothing_of_what_others_write,
            a_subscription_that_was_paused_misses_nothing_of_what_others_write;
        older_copies [LONG]:
            a_kafka_that_comes_back_with_one_is_noticed,
            what_others_write_on_one_of_kafka_arrives;
        outputs [LIMIT]:
            a_full_disk_or_a_reader_that_has_gone_ends_nothing;
        quickstart [LIMIT]:
            the_readme_shows_an_event_go_through,
            send_posts_an_event;
        quiet_outages [LIMIT]:
            a_bus_on_jetstream_says_what_changed,
            a_bus_on_kafka_says_what_changed,
            a_bus_on_redis_says_what_changed,
            a_source_of_mqtt_says_what_changed,
            a_source_of_nats_says_what_changed,
            a_source_of_kafka_says_what_changed,
            a_source_of_redis_says_what_changed;
        rate_limit [LIMIT]:
            a_rate_is_kept_over_a_reload_and_holds_nobody_else_back,
            a_repeat_is_not_delivered_over_a_restart_and_a_kill,
            a_new_subscription_starts_where_it_says_and_an_old_one_goes_on;
        redis_large [LIMIT]:
            what_the_server_does_not_take_is_a_dead_letter,
            a_limit_that_is_lowered_and_raised_while_evoke_runs_is_followed,
            a_limit_that_evoke_may_not_ask_for_shows_in_a_refusal;
        redis_limits [LIMIT]:
            drop_oldest_counts_what_a_paused_subscription_loses,
            drop_oldest_counts_what_waited_for_a_retry,
            max_age_takes_what_all_have_finished_and_nothing_that_one_needs,
            max_age_takes_what_a_paused_subscription_needs_and_counts_it,
            a_full_disk_is_named_and_loses_nothing,
            a_server_that_ends_on_a_full_disk_is_waited_for_and_loses_nothing;
        redis_list [LIMIT]:
            an_item_that_was_moved_for_a_lost_connection_is_delivered,
            a_consumer_that_was_taken_for_dead_is_found_when_it_is,
            an_item_that_was_moved_for_a_lost_connection_is_delivered_under_load_too,
            an_item_that_comes_late_to_a_dead_consumer_is_delivered,
            an_item_that_comes_after_an_equal_one_was_put_back_is_delivered;
        redis_rights [LIMIT]:
            a_stream_that_cannot_be_finished_stays_down,
            a_list_that_cannot_be_taken_from_stays_down;
        redis_source [LIMIT]:
            stream_entries_become_events,
            a_stream_starts_where_the_manifest_says,
            an_entry_that_is_trimmed_while_it_is_pending_is_counted,
            an_entry_that_is_trimmed_before_it_is_taken_over_is_counted,
            a_group_that_is_destroyed_goes_on_before_what_is_not_settled,
            channel_messages_become_events,
            list_items_survive_a_kill,
            an_acl_user_over_tls_reads_its_database,
            rejected_credentials_are_named,
            a_server_that_is_down_and_comes_back_loses_nothing,
            sentinel_names_the_new_master;
        redis_topology [LIMIT]:
            a_promoted_replica_has_all_that_was_waited_for,
            slots_that_move_under_load_lose_nothing,
            a_user_that_is_changed_or_deleted_is_named_and_goes_on_once_it_may;
        redis_source_cluster [LIMIT]:
            a_stream_and_a_list_are_read_where_they_are,
            keys_that_move_to_another_server_are_followed,
            a_server_that_dies_and_comes_back_loses_nothing;
        reload [LIMIT]:
            a_reload_under_load_loses_nothing,
            an_error_keeps_the_running_pipeline,
            a_change_that_cannot_run_is_taken_back,
            only_what_changed_is_touched,
            what_goes_and_comes_back_keeps_its_position,
            a_bus_cannot_change_while_it_runs;
        reload_drain [LIMIT]:
            a_reload_that_waits_says_for_what,
            sigterm_in_a_reload_finishes_what_is_under_way,
            sigterm_while_a_trigger_goes_finishes_what_is_under_way;
        reload_watch [LIMIT]:
            changes_that_never_rest_hold_up_nothing,
            a_folder_may_go_and_another_one_come,
            links_are_followed_where_they_lead_now,
            a_credential_in_a_file_is_read_again;
        replay [LIMIT]:
            a_replay_delivers_a_part_again_and_moves_nothing,
            todays_condition_applies_and_what_fails_is_a_dead_letter,
            a_replay_survives_kills,
            events_go_to_another_sink_where_asked,
            the_password_of_another_sink_is_sent_and_shown_nowhere,
            a_job_is_cancelled_and_waits_while_its_subscription_is_paused;
        subscriptions [LIMIT]:
            a_list_says_where_a_subscription_is,
            pause_and_resume_are_kept,
            only_what_runs_nowhere_is_deleted,
            what_another_evoke_runs_on_a_broker_is_not_deleted,
            tools_say_where_they_looked,
            wrong_usage_of_the_tools_is_2,
            only_its_owner_reaches_the_socket_and_only_the_token_changes_over_tcp;
        reply [LIMIT]:
            an_answer_goes_back_on_the_bus,
            every_reply_arrives_over_a_kill,
            what_only_claims_to_be_an_event_is_tried_again_and_dead_lettered,
            functions_that_answer_each_other_are_cut_off;
        send [LIMIT]:
            data_comes_from_standard_input,
            whole_events_come_from_standard_input,
            https_is_trusted_as_the_machine_does,
            an_https_sink_is_trusted_as_the_machine_does;
        sharing [LIMIT]:
            processes_come_and_go_and_nothing_is_repeated,
            processes_come_and_go_on_jetstream,
            processes_come_and_go_on_kafka,
            a_killed_process_is_replaced_under_load,
            a_killed_process_is_replaced_on_jetstream,
            a_killed_process_is_replaced_on_kafka,
            a_stopped_process_is_replaced_and_comes_back_harmless,
            a_stopped_process_is_replaced_and_comes_back_harmless_on_jetstream,
            a_stopped_process_is_replaced_and_comes_back_harmless_on_kafka,
            a_copied_data_directory_is_refused,
            a_copied_data_directory_is_refused_on_jetstream,
            a_copied_data_directory_is_refused_on_kafka,
            a_tick_is_fired_once_over_all_processes;
        spans [LIMIT]:
            a_time_and_an_offset_are_places_on_the_embedded_bus,
            a_time_and_an_offset_are_places_on_jetstream,
            a_time_and_an_offset_are_places_on_kafka,
            a_time_and_an_offset_are_places_on_redis,
            a_replay_is_exact_to_the_event,
            each_input_has_an_offset_of_its_own;
        tool_ways [LIMIT]:
            every_tool_works_by_every_way_on_the_embedded_bus,
            every_tool_works_by_every_way_on_jetstream,
            every_tool_works_by_every_way_on_redis,
            one_bus_of_several_is_named;
        tool_ways [LONG]:
            every_tool_works_by_every_way_on_kafka;
        source_credentials [LIMIT]:
            a_user_of_nats_that_is_taken_away_misses_nothing,
            credentials_of_nats_that_expire_or_are_revoked_miss_nothing,
            a_user_of_redis_that_is_taken_away_misses_nothing;
        source_freezes [LIMIT]:
            a_broker_of_mqtt_loses_nothing,
            a_server_of_nats_loses_nothing_of_a_stream,
            a_server_of_redis_loses_no_entry_of_a_stream,
            a_server_of_redis_loses_no_item_of_a_list,
            equal_items_of_a_list_are_each_delivered;
        source_letters [LIMIT]:
            what_cannot_be_an_event_is_read_from_the_topic_by_a_trigger,
            what_its_own_sink_refuses_is_in_the_topic_too,
            what_a_dead_letter_sink_refuses_is_in_the_store,
            what_a_dead_letter_topic_never_takes_is_in_the_store;
        tls_names [LIMIT]:
            a_kafka_source_checks_whom_it_reads_from,
            a_redis_source_checks_whom_it_reads_from,
            an_mqtt_source_checks_whom_it_reads_from,
            a_nats_source_checks_whom_it_reads_from,
            a_bus_on_kafka_checks_whom_it_publishes_to,
            a_bus_on_redis_checks_whom_it_publishes_to,
            a_bus_on_jetstream_checks_whom_it_publishes_to;
        tools [LIMIT]:
            they_work_on_jetstream,
            they_work_on_redis;
        tools [LONG]:
            they_work_on_kafka;
        validate [LIMIT]:
            every_error_has_its_place_and_a_fix,
            the_same_as_json,
            one_broken_file_of_ten_hides_nothing_of_the_others,
            a_folder_that_cannot_be_read_hides_nothing_of_the_others,
            a_path_is_taken_once_on_the_port_that_is_shared,
            sources_that_take_from_one_another_are_named,
            an_address_that_is_refused_shows_no_password,
            two_objects_of_one_name_are_refused,
            what_openfunction_accepts_and_ignores_is_a_warning,
            what_cannot_run_here_is_a_warning_and_an_error_of_run,
            partial_takes_references_for_granted,
            set_and_bus_are_checked_too,
            no_manifest_kills_it,
            a_source_with_neither_bus_nor_sink_is_refused,
            every_manifest_in_the_docs_is_right,
            every_example_is_right,
            every_test_that_the_guarantees_name_is_there;
        webhook_source [LIMIT]:
            binary_structured_and_batched_events_arrive_as_they_are,
            structured_data_keeps_its_bytes,
            a_plain_body_becomes_an_event,
            path_method_and_port_are_as_the_manifest_says,
            only_who_may_send_can,
            what_is_no_event_is_refused_by_name,
            the_handshake_allows_a_sender,
            a_full_bus_answers_503_and_what_was_accepted_arrives,
            a_sink_without_a_bus_settles_the_answer;
    };
    let trials = tests
        .into_iter()
        .chain(conformance::tests())
        .map(|(name, limit, test)| trial(runtime.clone(), name, limit, test))
        .collect();
    // A run of all tests needs all servers.
    if arguments.filter.is_none() && !arguments.list {
        runtime.block_on(servers::bring());
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    runtime.block_on(servers::stop_shared());
    scratch::clean();
    conclusion.exit_code()
}

fn trial(runtime: Arc<Runtime>, name: &'static str, limit: Duration, test: fn() -> Test) -> Trial {
    Trial::ignorable_test(name, move || match runtime.block_on(case::run(limit, test())) {
        Ok(Ok(())) => Ok(Completion::Completed),
        Ok(Err(Skipped(reason))) => Ok(Completion::ignored_with(reason)),
        Err(report) => Err(Failed::from(report)),
    })
}
