//! The reconciler as a black box: the binary, a tree, and a real backend. Every scenario runs on
//! every backend that this machine has; each looks at what exists, not at what was printed.

mod built;
pub(super) mod chaos;
mod copies;
mod detached;
mod differs;
mod everyday;
mod history;
mod interrupted;
mod keep;
mod kept;
mod logs;
mod looked_at;
mod looped;
mod mounted;
mod numbers;
mod outage;
mod published;
mod renamed;
mod replaced;
mod rig;
mod scenarios;
mod secrets;
mod setup;
mod snapshots;
mod sources;
mod stopped;
mod tools;
mod watch;
mod ways;

use chaos::damaged;

macro_rules! on_every_backend {
    ($($module:ident :: $scenario:ident),* $(,)?) => {
        mod native {
            $(#[test] fn $scenario() { super::$module::$scenario(&super::rig::Rig::native(stringify!($scenario))); })*
        }
        mod docker {
            $(#[test] fn $scenario() {
                if let Some(rig) = super::rig::Rig::docker(stringify!($scenario)) {
                    super::$module::$scenario(&rig);
                }
            })*
        }
    };
}

on_every_backend! {
    scenarios::twenty_agents_and_then_nothing_to_do,
    scenarios::an_edited_prompt_goes_in_in_place,
    scenarios::a_removed_skill_file_and_a_dropped_skill_are_gone_inside,
    scenarios::what_stands_in_the_way_of_a_skill_is_named,
    scenarios::a_changed_limit_is_one_change_in_place_that_names_the_field,
    scenarios::a_deleted_agent_is_one_teardown,
    scenarios::a_stopped_machine_runs_again_with_its_files,
    scenarios::a_broken_file_holds_its_sandbox_and_the_rest_converges,
    scenarios::a_skill_that_points_outside_is_refused,
    scenarios::an_emptied_tree_removes_nothing,
    scenarios::two_appliers_on_one_tree,
    scenarios::two_trees_never_see_each_other,
    scenarios::a_saved_plan_is_refused_when_anything_has_moved,
    scenarios::a_workspace_is_copied_once,
    scenarios::an_agents_own_files_beside_a_skill_stay,
    scenarios::a_skills_symlinks_go_with_it,
    scenarios::a_lost_id_is_named_with_the_way_back,
    scenarios::an_agents_own_files_stay_after_a_provisioning_that_was_cut_short,
    scenarios::what_a_command_wrote_is_not_lost_in_silence,
    scenarios::a_plan_writes_nothing_and_is_what_apply_would_do,
    scenarios::a_command_starts_after_provisioning_and_completes,
    numbers::what_is_used_is_told,
    published::a_reader_hears_what_status_says,
    published::what_a_killed_watch_left_is_replaced,
    published::a_watch_that_does_not_answer_is_not_waited_for,
    published::only_so_many_listen,
    everyday::another_command_ends_nothing_else,
    replaced::one_that_cannot_be_provisioned_leaves_the_old_machine,
    replaced::what_is_kept_is_moved_where_it_can_be,
    replaced::one_whose_image_cannot_be_had_touches_nothing,
    copies::a_tree_goes_out_and_in_again,
    copies::what_a_guest_planted_stays_inside,
    copies::what_cannot_be_copied_says_why,
    copies::what_is_no_repository_says_so,
    kept::what_goes_leaves_a_snapshot,
    kept::a_new_machine_has_the_work_of_the_old_one,
    kept::work_on_its_way_arrives_after_a_run_that_was_cut_short,
    kept::work_on_its_way_is_kept_by_whatever_comes_next,
    kept::what_is_not_to_be_kept_is_said,
    kept::what_does_not_run_is_kept_too,
    keep::named_paths_outlive_their_machine,
    keep::what_lies_behind_a_closed_folder_is_kept,
    keep::what_the_tree_said_last_holds_for_one_that_is_gone,
    keep::with_nothing_named_nothing_is_kept,
    keep::one_that_does_not_run_gives_its_paths,
    keep::what_is_mounted_or_behind_a_link_is_not_kept,
    snapshots::work_comes_back_into_a_sandbox,
    snapshots::nothing_else_happens_during_a_restore,
    snapshots::work_comes_out_into_a_folder,
    snapshots::what_cannot_be_kept_says_why,
    copies::large_holes_and_odd_names_come_out,
    snapshots::a_mounted_workspace_is_not_restored_into,
    snapshots::a_withdrawn_skill_stays_away,
    snapshots::a_home_of_the_bottles_own_is_the_users,
    ways::a_link_of_a_guest_leads_no_copy_elsewhere,
    snapshots::an_agents_file_under_another_name_holds_it,
    sources::a_folder_in_what_another_can_write_is_held,
    sources::a_link_in_what_another_can_write_leads_nowhere,
    sources::a_second_name_of_a_folder_is_no_way_around,
    sources::a_sandbox_of_another_tree_counts_as_well,
    sources::an_env_file_that_a_sandbox_can_write_is_refused,
    sources::a_lost_record_of_another_tree_opens_nothing_and_stops_nothing,
    sources::what_leads_elsewhere_is_held_and_what_is_written_anew_is_not,
    sources::what_leaves_makes_room_in_the_same_run,
    sources::the_folder_of_an_overlay_is_named,
    sources::a_shared_folder_is_said_by_check_and_plan,
    sources::a_path_that_others_can_change_is_held,
    setup::a_setup_is_run_once,
    setup::a_setup_that_fails_is_told_and_run_again,
    tools::a_program_that_is_not_inside_says_where_it_was_looked_for,
    looked_at::what_goes_is_looked_at,
    looked_at::what_runs_is_seen_beside_no_workspace,
    differs::a_folder_is_compared_file_by_file,
    differs::changed_files_come_when_that_is_said,
    differs::what_a_sandbox_can_write_is_not_compared,
    differs::objects_that_a_sandbox_can_write_are_not_read,
    differs::what_lies_in_other_repositories_is_compared,
    differs::attributes_and_odd_names_change_nothing,
    differs::a_submodule_is_compared_as_well,
    renamed::a_renamed_agent_keeps_its_sandbox,
    renamed::a_rename_that_was_cut_short_goes_on,
    renamed::a_rename_that_was_cut_short_can_be_taken_back,
    renamed::a_rename_that_cannot_be_is_held,
    renamed::what_says_where_renamed_ones_are_may_be_lost,
    renamed::a_file_that_was_only_renamed_is_hinted_at,
    stopped::what_is_stopped_stays_so_until_it_is_started,
    stopped::what_runs_anew_is_what_the_tree_says_now,
    stopped::what_somebody_else_starts_is_stopped_again,
    stopped::a_stopped_one_is_replaced_and_removed_as_any_other,
    stopped::what_cannot_be_stopped_or_started_says_why,
    stopped::watch_keeps_to_it,
    logs::several_stand_beside_each_other,
    logs::lines_have_times,
    logs::a_line_without_an_end_holds_no_other_up,
    detached::it_lives_on_and_can_be_come_back_to,
    detached::what_is_not_there_is_said,
    detached::a_script_can_talk_to_it,
    detached::nothing_runs_on_unseen_when_what_holds_it_is_killed,
    detached::what_is_done_in_place_ends_none_and_what_ends_one_says_so,
    detached::much_output_holds_nobody_up_and_is_bounded,
    interrupted::killed_at_fifty_moments_and_converged_each_time,
    damaged::every_record_that_is_damaged_is_repaired_or_held,
    secrets::an_asked_for_value_is_found_nowhere,
    watch::a_saved_prompt_is_live,
    watch::what_is_removed_piece_by_piece_is_held_in_the_end,
    watch::removals_wait_for_a_person_where_that_is_asked_for,
    watch::a_machine_that_goes_down_is_repaired,
    watch::a_tree_that_breaks_in_the_middle_of_an_edit_holds_what_is_broken,
    watch::a_tree_renamed_away_and_back_loses_nothing,
    watch::it_drains_on_sigterm,
    watch::it_drains_on_sighup,
    watch::a_fifo_in_the_way_delays_nobody,
    watch::a_storm_of_checkouts_removes_nothing,
    watch::an_agents_folder_that_cannot_be_read_yields_no_plan,
}

/// They change the rig's environment.
mod edits {
    use super::everyday;
    use super::rig::Rig;

    #[test]
    fn everyday_edits_lose_nothing_on_native() {
        everyday::they_lose_nothing(Rig::native("everyday_edits"));
    }

    #[test]
    fn an_image_comes_and_goes_as_planned_on_native() {
        everyday::an_image_comes_and_goes_as_planned(&Rig::native("image_comes"));
    }

    #[test]
    fn everyday_edits_lose_nothing_on_docker() {
        if let Some(rig) = Rig::docker("everyday_edits") {
            everyday::they_lose_nothing(rig);
        }
    }
}

/// Containers that have a folder of the host's.
mod beside_a_mount {
    macro_rules! on_docker {
        ($($module:ident :: $scenario:ident),* $(,)?) => {
            $(#[test] fn $scenario() { super::$module::$scenario(); })*
        };
    }

    on_docker! {
        mounted::a_folder_that_the_guest_may_not_enter_is_no_skill_of_its,
        mounted::roots_links_lead_into_no_folder_of_anothers,
        mounted::a_home_in_the_workspace_keeps_its_owner,
        mounted::settings_show_the_guest_nothing_of_others,
        mounted::a_bundle_in_the_workspace_is_left_alone,
        mounted::all_arrives_for_a_user_with_its_home_inside,
        mounted::all_arrives_for_a_user_with_its_home_outside,
        mounted::all_arrives_for_root_with_its_home_inside,
        mounted::all_arrives_for_root_with_its_home_outside,
        mounted::what_is_mounted_below_a_workspace_stays_outside,
        mounted::a_file_of_values_without_end_keeps_nobody_waiting,
        mounted::a_copy_goes_no_further_than_the_guest_could,
    }
}

/// Two hundred sandboxes: where they are cheapest.
#[test]
fn a_storm_of_checkouts_tears_nothing_down() {
    chaos::storm::a_storm_of_checkouts_tears_nothing_down(&rig::Rig::native("storm"));
}

/// Containers of this machine's own programs.
mod containers_with_git {
    macro_rules! on_docker {
        ($($module:ident :: $scenario:ident),* $(,)?) => {
            $(#[test] fn $scenario() {
                if let Some(rig) = super::rig::Rig::docker_with_git(stringify!($scenario)) {
                    super::$module::$scenario(&rig);
                }
            })*
        };
    }

    on_docker! {
        copies::commits_come_out_into_refs_of_their_own,
        looked_at::a_repository_that_goes_is_counted,
        differs::a_repository_is_compared_with_its_commit,
        copies::a_sync_goes_where_the_copy_came_from,
        copies::a_colon_in_a_path_is_a_letter,
        copies::nothing_of_a_planted_repository_runs_or_stays,
        copies::a_repository_that_hangs_is_given_up,
    }
}

/// They change the rig's environment.
mod settings_of_roles {
    use super::everyday;
    use super::rig::Rig;

    #[test]
    fn what_the_guest_wrote_stays_byte_by_byte_on_native() {
        everyday::what_the_guest_wrote_stays_byte_by_byte(Rig::native("settings_stay"));
    }

    #[test]
    fn what_the_guest_wrote_stays_byte_by_byte_on_docker() {
        if let Some(rig) = Rig::docker("settings_stay") {
            everyday::what_the_guest_wrote_stays_byte_by_byte(rig);
        }
    }
}

/// What only sandboxes made of processes have: the programs of this machine, git among them.
mod processes {
    #[test]
    fn a_repository_that_hangs_is_given_up() {
        let rig = super::rig::Rig::native("repository_that_hangs");
        super::copies::a_repository_that_hangs_is_given_up(&rig);
    }

    #[test]
    fn files_go_into_a_mounted_workspace() {
        let rig = super::rig::Rig::native("mounted_workspace");
        super::copies::files_go_into_a_mounted_workspace(&rig);
    }

    #[test]
    fn a_copy_that_is_killed_leaves_nothing_inside() {
        let rig = super::rig::Rig::native("copy_that_is_killed");
        super::copies::a_copy_that_is_killed_leaves_nothing_inside(&rig);
    }

    #[test]
    fn a_repository_is_compared_with_its_commit() {
        let rig = super::rig::Rig::native("compared");
        super::differs::a_repository_is_compared_with_its_commit(&rig);
    }

    #[test]
    fn a_repository_that_goes_is_counted() {
        let rig = super::rig::Rig::native("counted");
        super::looked_at::a_repository_that_goes_is_counted(&rig);
    }

    #[test]
    fn commits_come_out_into_refs_of_their_own() {
        let rig = super::rig::Rig::native("commits_come_out");
        super::copies::commits_come_out_into_refs_of_their_own(&rig);
    }

    #[test]
    fn a_sync_goes_where_the_copy_came_from() {
        let rig = super::rig::Rig::native("sync_goes_where");
        super::copies::a_sync_goes_where_the_copy_came_from(&rig);
    }

    #[test]
    fn a_colon_in_a_path_is_a_letter() {
        let rig = super::rig::Rig::native("colon_in_a_path");
        super::copies::a_colon_in_a_path_is_a_letter(&rig);
    }

    #[test]
    fn nothing_of_a_planted_repository_runs_or_stays() {
        let rig = super::rig::Rig::native("planted_repository");
        super::copies::nothing_of_a_planted_repository_runs_or_stays(&rig);
    }

    #[test]
    fn a_damaged_record_is_said_by_exec_and_down() {
        let rig = super::rig::Rig::native("a_damaged_record_is_said_by_exec_and_down");
        super::scenarios::a_damaged_record_is_said_by_exec_and_down(&rig);
    }

    #[test]
    fn tools_of_the_operator_run_inside() {
        let mut rig = super::rig::Rig::native("tools_of_the_operator");
        super::tools::tools_of_the_operator_run_inside(&mut rig);
    }

    #[test]
    fn it_does_without_descriptors() {
        let rig = super::rig::Rig::native("it_does_without_descriptors");
        super::watch::it_does_without_descriptors(&rig);
    }

    #[test]
    fn a_resync_of_what_is_still_is_no_pass() {
        let rig = super::rig::Rig::native("a_resync_of_what_is_still_is_no_pass");
        super::watch::a_resync_of_what_is_still_is_no_pass(&rig);
    }
}

/// What only Docker has: objects that others can make, rename and remove behind our back.
mod engine {
    use super::rig::Rig;

    macro_rules! on_docker {
        ($($scenario:ident),* $(,)?) => {
            $(#[test] fn $scenario() {
                if let Some(rig) = Rig::docker(stringify!($scenario)) {
                    super::scenarios::engine::$scenario(&rig);
                }
            })*
        };
    }

    /// Root holds a workspace by a mount of its own.
    #[test]
    fn a_restart_by_the_engine_mounts_what_was_accepted() {
        if let Some(rig) = Rig::docker("a_restart_by_the_engine_mounts_what_was_accepted")
            && rustix::process::geteuid().is_root()
        {
            super::sources::a_restart_by_the_engine_mounts_what_was_accepted(&rig);
        }
    }

    #[test]
    fn a_change_of_what_is_built_replaces_and_keeps_the_work() {
        if let Some(rig) = Rig::docker("a_change_of_what_is_built") {
            super::built::a_change_of_what_is_built_replaces_and_keeps_the_work(&rig);
        }
    }

    #[test]
    fn a_guest_whose_shell_sleeps_is_provisioned() {
        if let Some(rig) = Rig::docker("a_guest_whose_shell_sleeps_is_provisioned") {
            super::watch::a_guest_whose_shell_sleeps_is_provisioned(&rig);
        }
    }

    #[test]
    fn a_network_that_was_removed_is_one_apply() {
        if let Some(rig) = Rig::docker("a_network_that_was_removed_is_one_apply") {
            super::watch::a_network_that_was_removed_is_one_apply(&rig);
        }
    }

    #[test]
    fn a_network_attached_by_hand_is_heard() {
        if let Some(rig) = Rig::docker("a_network_attached_by_hand_is_heard") {
            super::watch::a_network_attached_by_hand_is_heard(&rig);
        }
    }

    on_docker! {
        a_removed_container_comes_back_and_no_other_is_touched,
        an_image_that_cannot_be_had_leaves_the_old_sandbox_running,
        a_container_of_someone_else_is_a_conflict_and_untouched,
        a_tag_that_moved_is_said_and_used_for_new_machines_only,
        a_reader_that_goes_away_ends_exec,
        a_network_attached_by_hand_is_taken_off_again,
        an_imported_image_goes_when_nothing_stands_on_it,
    }
}
